"""Train on data from a datastore, the Azure ML way: an Estimator around a script.

Run it with `python flows/train_digits.py`. What it needs beside a Prefect server is scikit-learn
and matplotlib (`pip install 'prefect-datastores[demo]'`).
"""

from pathlib import Path

from prefect_datastores import Datastore, Estimator
from prefect_datastores.demo.digits import SOURCE, write_digits


def main() -> None:
    """Store the digits, train on them, keep the model beside them."""
    # This line is all that changes between a folder and Azure, for instance to
    #   Datastore.register_azure_blob_container(
    #       datastore_name="digits", container_name="digits", account_name="acme",
    #       account_key=os.environ["ACCOUNT_KEY"], create_if_not_exists=True, overwrite=True)
    store = Datastore.register_local("digits", "digits-datastore", overwrite=True)

    write_digits(Path("digits-data"))
    store.upload("digits-data", target_path="train-and-test", overwrite=True)

    estimator = Estimator(
        source_directory=SOURCE,
        entry_script="train.py",
        script_params={"--data": store.path("train-and-test").as_download(), "--penalty": 10.0},
        inputs=[store.path("model").as_upload(path_on_compute="outputs")],
        name="train-digits",
    )
    print(estimator.plan())
    print(estimator.run())


if __name__ == "__main__":
    main()
