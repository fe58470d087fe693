"""The staging engine: plans that are pure, and transfers that run them. It knows no Prefect."""
