/* A stand-in for Azure Blob Storage that is fast enough to measure clients: Azurite would be all that
 * a benchmark measures. One thread a connection, objects in memory, signatures ignored.
 *
 *     cc -O2 -pthread -o standin standin.c && ./standin PORT [LATENCY_MS] [MIB_PER_SECOND]
 *
 * LATENCY_MS passes before each answer; MIB_PER_SECOND bounds each connection, in either direction.
 * It speaks Put Blob, Put Block, Put Block List, Get Blob (ranges), Head, Delete, List Blobs and
 * Create Container, in path style (/account/container/name), and answers 501 to all else.
 *
 * A container `copies-N` is never written to: it lists N objects, a thousand in each folder, and each
 * has the content, ETag and MD5 of the object `pattern/pattern`, so that a million need no memory.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_ROOM = 65536, BUCKETS = 1 << 20, DATE_ROOM = 40, NAME_ROOM = 4096, STEP = 262144 };

typedef struct Part { char *data; size_t length; struct Part *next; char id[128]; } Part;
typedef struct Object {
    char *name;               /* container/name */
    Part *parts, *staged;     /* committed, in order; staged, newest first */
    size_t size;
    unsigned long version;
    char md5[64], modified[DATE_ROOM], type[96];
    int exists;
    struct Object *next;
} Object;

typedef struct {
    int fd;
    char room[HEAD_ROOM + 1];
    size_t head, filled;      /* length of the head with its end; bytes in room */
    char method[12], path[NAME_ROOM], query[NAME_ROOM];
    size_t length;            /* of the body */
    long long first, last;    /* range, or -1 */
    char md5[64], type[96], match[64], none_match[64];
    struct timespec began;
} Conn;

static Object *table[BUCKETS];
static Object **sorted;
static size_t count, live_dirty = 1, live;
static unsigned long versions;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long latency_us;
static double bytes_per_second;

static unsigned hash(const char *s) {
    unsigned h = 2166136261u;
    while (*s) h = (h ^ (unsigned char)*s++) * 16777619u;
    return h & (BUCKETS - 1);
}

static Object *find(const char *name, int make) {
    Object **at = &table[hash(name)];
    for (; *at; at = &(*at)->next)
        if (!strcmp((*at)->name, name)) return *at;
    if (!make) return NULL;
    Object *made = calloc(1, sizeof *made);
    made->name = strdup(name);
    count++;
    return *at = made;
}

static void drop(Part *part) {
    while (part) { Part *next = part->next; free(part->data); free(part); part = next; }
}

static void stamp(Object *o) {
    time_t now = time(NULL);
    struct tm tm;
    strftime(o->modified, DATE_ROOM, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
    o->version = ++versions;
    if (!o->exists) live_dirty = 1;
    o->exists = 1;
}

static int all(int fd, const char *data, size_t length) {
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent <= 0) return 0;
        data += sent, length -= sent;
    }
    return 1;
}

/* Wait until `moved` bytes since `began` are no faster than the rate. */
static void pace(const struct timespec *began, size_t moved) {
    if (bytes_per_second <= 0) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double passed = (now.tv_sec - began->tv_sec) + (now.tv_nsec - began->tv_nsec) / 1e9;
    double due = moved / bytes_per_second - passed;
    if (due > 0.0005) usleep((useconds_t)(due * 1e6));
}

/* A body that is to come follows in the same packet (`MSG_MORE`), as a service has it. */
static int answer(Conn *c, const char *status, size_t length, const char *format, ...) {
    char head[2048];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nx-ms-request-id: 1\r\nx-ms-version: 2024-11-04\r\nContent-Length: %zu\r\n", status, length);
    va_list more;
    va_start(more, format);
    n += vsnprintf(head + n, sizeof head - n, format, more);
    va_end(more);
    n += snprintf(head + n, sizeof head - n, "\r\n");
    return send(c->fd, head, n, MSG_NOSIGNAL | (length && strcmp(c->method, "HEAD") ? MSG_MORE : 0)) == n;
}

static int fault(Conn *c, const char *status, const char *code) {
    char body[256];
    int n = snprintf(body, sizeof body, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s</Message></Error>", code, code);
    if (!strcmp(c->method, "HEAD")) return answer(c, status, 0, "x-ms-error-code: %s\r\n", code);
    return answer(c, status, n, "x-ms-error-code: %s\r\nContent-Type: application/xml\r\n", code) && all(c->fd, body, n);
}

static void unescape(char *text) {
    char *to = text;
    for (; *text; text++) {
        unsigned value;
        if (*text == '%' && sscanf(text + 1, "%2x", &value) == 1) *to++ = (char)value, text += 2;
        else *to++ = *text;
    }
    *to = 0;
}

/* Value of a query's key, decoded, or "". */
static char *asked(Conn *c, const char *key, char *into) {
    size_t n = strlen(key);
    *into = 0;
    for (char *at = c->query; at && *at; at = strchr(at, '&'), at = at ? at + 1 : NULL)
        if (!strncmp(at, key, n) && at[n] == '=') {
            size_t length = strcspn(at + n + 1, "&");
            memcpy(into, at + n + 1, length);
            into[length] = 0;
            unescape(into);
        }
    return into;
}

static void copy(char *into, size_t room, const char *value, size_t length) {
    if (length >= room) length = room - 1;
    memcpy(into, value, length);
    into[length] = 0;
}

static int read_head(Conn *c) {
    char *end;
    while (!(end = memmem(c->room, c->filled, "\r\n\r\n", 4))) {
        if (c->filled == HEAD_ROOM) return 0;
        ssize_t got = recv(c->fd, c->room + c->filled, HEAD_ROOM - c->filled, 0);
        if (got <= 0) return 0;
        c->filled += got;
    }
    c->head = end + 4 - c->room;
    c->length = 0, c->first = c->last = -1;
    c->md5[0] = c->type[0] = c->match[0] = c->none_match[0] = 0;
    char target[2 * NAME_ROOM];
    *end = 0;
    if (sscanf(c->room, "%11s %8191s", c->method, target) != 2) return 0;
    char *mark = strchr(target, '?');
    copy(c->query, NAME_ROOM, mark ? mark + 1 : "", mark ? strlen(mark + 1) : 0);
    if (mark) *mark = 0;
    copy(c->path, NAME_ROOM, target, strlen(target));
    unescape(c->path);
    int range_seen = 0;
    for (char *line = strstr(c->room, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        char *colon = strchr(line, ':');
        if (!colon) break;
        size_t n = colon - line;
        char *value = colon + 1 + strspn(colon + 1, " ");
        size_t length = strcspn(value, "\r");
        #define IS(name) (n == sizeof(name) - 1 && !strncasecmp(line, name, n))
        if (IS("content-length")) c->length = strtoull(value, NULL, 10);
        else if (IS("x-ms-range") || (IS("range") && !range_seen)) {
            range_seen |= IS("x-ms-range");
            c->last = -1;
            sscanf(value, "bytes=%lld-%lld", &c->first, &c->last);
        }
        else if (IS("x-ms-blob-content-md5")) copy(c->md5, sizeof c->md5, value, length);
        else if (IS("content-md5") && !c->md5[0]) copy(c->md5, sizeof c->md5, value, length);
        else if (IS("x-ms-blob-content-type")) copy(c->type, sizeof c->type, value, length);
        else if (IS("if-match")) copy(c->match, sizeof c->match, value, length);
        else if (IS("if-none-match")) copy(c->none_match, sizeof c->none_match, value, length);
        else if (IS("expect")) all(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    }
    return 1;
}

static char *read_body(Conn *c) {
    char *data = malloc(c->length + 1);
    size_t have = c->filled - c->head;
    if (have > c->length) have = c->length;
    memcpy(data, c->room + c->head, have);
    memmove(c->room, c->room + c->head + have, c->filled - c->head - have);
    c->filled -= c->head + have;
    while (have < c->length) {
        size_t step = c->length - have < STEP ? c->length - have : STEP;
        ssize_t got = recv(c->fd, data + have, step, 0);
        if (got <= 0) { free(data); return NULL; }
        have += got;
        pace(&c->began, have);
    }
    data[c->length] = 0;
    return data;
}

static Part *part_of(char *data, size_t length, const char *id) {
    Part *part = calloc(1, sizeof *part);
    part->data = data, part->length = length;
    copy(part->id, sizeof part->id, id, strlen(id));
    return part;
}

static int commit(Conn *c, Object *o, Part *parts) {
    drop(o->parts);
    o->parts = parts, o->size = 0;
    for (Part *part = parts; part; part = part->next) o->size += part->length;
    strcpy(o->md5, c->md5);
    strcpy(o->type, c->type[0] ? c->type : "application/octet-stream");
    stamp(o);
    return 1;
}

/* How many objects a container of copies has; 0 for any other. */
static size_t copies_in(const char *container) {
    size_t many = 0;
    return sscanf(container, "copies-%zu", &many) == 1 ? many : 0;
}

static const char *copy_name(size_t index, char *into) {
    sprintf(into, "%06zu/%03zu.bin", index / 1000, index % 1000);
    return into;
}

/* The object of a name, or NULL; of a container of copies each is the pattern. */
static Object *meant(const char *name) {
    size_t many = copies_in(name), folder, index;
    if (!many) return find(name, 0);
    const char *own = strchr(name, '/');
    char same[64];
    if (!own || sscanf(own, "/%6zu/%3zu", &folder, &index) != 2 || folder * 1000 + index >= many) return NULL;
    return strcmp(copy_name(folder * 1000 + index, same), own + 1) ? NULL : find("pattern/pattern", 0);
}

static int holds(Conn *c, Object *o) {
    char etag[40];
    snprintf(etag, sizeof etag, "\"0x%lX\"", o && o->exists ? o->version : 0);
    if (!strcmp(c->none_match, "*") && o && o->exists) return 0;
    return !c->match[0] || !strcmp(c->match, "*") || !strcmp(c->match, etag);
}

static int put(Conn *c, const char *name) {
    char value[NAME_ROOM], id[NAME_ROOM];
    char *data = read_body(c);
    if (!data) return 0;
    asked(c, "comp", value);
    if (!strchr(name, '/')) { free(data); return answer(c, "201 Created", 0, "ETag: \"0x1\"\r\nLast-Modified: Tue, 24 Nov 2026 00:00:00 GMT\r\n"); }
    if (value[0] && strcmp(value, "block") && strcmp(value, "blocklist")) { free(data); return fault(c, "501 Not Implemented", "NotImplemented"); }
    pthread_mutex_lock(&lock);
    Object *o = find(name, 1);
    int right = 1, known = 1;
    if (!strcmp(value, "block")) {
        Part *part = part_of(data, c->length, asked(c, "blockid", id));
        part->next = o->staged, o->staged = part;
    } else if (!(right = holds(c, o))) {
        free(data);
    } else if (!strcmp(value, "blocklist")) {
        Part *first = NULL, **end = &first;
        for (char *at = data; known && (at = strstr(at, "</")); at += 2) {
            char *start = at;
            while (start > data && start[-1] != '>') start--;
            size_t length = at - start;
            if (!strncmp(at + 2, "BlockList", 9)) continue;
            Part **from = &o->staged;
            while (*from && (strlen((*from)->id) != length || strncmp((*from)->id, start, length))) from = &(*from)->next;
            if ((known = *from != NULL)) {
                Part *part = *from;
                *from = part->next, part->next = NULL;
                *end = part, end = &part->next;
            }
        }
        drop(o->staged), o->staged = NULL;
        if (known) commit(c, o, first); else drop(first);
        free(data);
    } else {
        commit(c, o, part_of(data, c->length, ""));
    }
    unsigned long version = o->version;
    char modified[DATE_ROOM];
    strcpy(modified, o->modified);
    pthread_mutex_unlock(&lock);
    if (!right) return fault(c, c->none_match[0] ? "409 Conflict" : "412 Precondition Failed", c->none_match[0] ? "BlobAlreadyExists" : "ConditionNotMet");
    if (!known) return fault(c, "400 Bad Request", "InvalidBlockList");
    return answer(c, "201 Created", 0, "ETag: \"0x%lX\"\r\nLast-Modified: %s\r\nx-ms-request-server-encrypted: true\r\n", version, modified[0] ? modified : "Tue, 24 Nov 2026 00:00:00 GMT");
}

static int get(Conn *c, const char *name, int body) {
    pthread_mutex_lock(&lock);
    Object *o = meant(name);
    int there = o && o->exists, right = there && holds(c, o);
    pthread_mutex_unlock(&lock);
    if (!there) return fault(c, "404 Not Found", "BlobNotFound");
    if (!right) return fault(c, "412 Precondition Failed", "ConditionNotMet");
    size_t first = c->first < 0 ? 0 : c->first, last = o->size ? o->size - 1 : 0;
    if (c->last >= 0 && (size_t)c->last < last) last = c->last;
    if (c->first >= 0 && first >= o->size) return fault(c, "416 Range Not Satisfiable", "InvalidRange");
    size_t length = o->size ? last - first + 1 : 0;
    char range[96] = "", md5[96] = "";
    if (c->first >= 0 && body) snprintf(range, sizeof range, "Content-Range: bytes %zu-%zu/%zu\r\n", first, last, o->size);
    if (o->md5[0]) snprintf(md5, sizeof md5, "%s: %s\r\n", range[0] ? "x-ms-blob-content-md5" : "Content-MD5", o->md5);
    if (!answer(c, range[0] ? "206 Partial Content" : "200 OK", length,
                "%s%sETag: \"0x%lX\"\r\nLast-Modified: %s\r\nContent-Type: %s\r\nAccept-Ranges: bytes\r\nx-ms-blob-type: BlockBlob\r\n"
                "x-ms-creation-time: %s\r\nx-ms-lease-status: unlocked\r\nx-ms-lease-state: available\r\nx-ms-server-encrypted: true\r\n",
                range, md5, o->version, o->modified, o->type, o->modified)) return 0;
    if (!body) return 1;
    size_t at = 0, moved = 0;
    for (Part *part = o->parts; part && length; at += part->length, part = part->next) {
        if (at + part->length <= first) continue;
        size_t from = first > at ? first - at : 0;
        while (from < part->length && length) {
            size_t step = part->length - from < length ? part->length - from : length;
            if (step > STEP) step = STEP;
            if (!all(c->fd, part->data + from, step)) return 0;
            from += step, first += step, length -= step, moved += step;
            pace(&c->began, moved);
        }
    }
    return 1;
}

static int by_name(const void *a, const void *b) { return strcmp((*(Object **)a)->name, (*(Object **)b)->name); }

typedef struct { char *data; size_t length, room; } Text;

static void add(Text *t, const char *format, ...) {
    if (t->room - t->length < 2 * NAME_ROOM) t->data = realloc(t->data, t->room = t->room * 2 + 4 * NAME_ROOM);
    va_list more;
    va_start(more, format);
    t->length += vsnprintf(t->data + t->length, t->room - t->length, format, more);
    va_end(more);
}

static char *escaped(const char *text, char *into) {
    char *to = into;
    for (; *text; text++) {
        if (*text == '&') to = stpcpy(to, "&amp;");
        else if (*text == '<') to = stpcpy(to, "&lt;");
        else if (*text == '>') to = stpcpy(to, "&gt;");
        else *to++ = *text;
    }
    *to = 0;
    return into;
}

static int list(Conn *c, const char *container) {
    char prefix[NAME_ROOM], marker[NAME_ROOM], delimiter[NAME_ROOM], most[NAME_ROOM], start[2 * NAME_ROOM], name[5 * NAME_ROOM];
    asked(c, "prefix", prefix), asked(c, "marker", marker), asked(c, "delimiter", delimiter), asked(c, "maxresults", most);
    size_t left = most[0] ? strtoul(most, NULL, 10) : 5000, base = strlen(container) + 1;
    if (left > 5000) left = 5000;
    snprintf(start, sizeof start, "%s/", container);
    size_t wanted = strlen(prefix);
    Text t = {malloc(4 * NAME_ROOM), 0, 4 * NAME_ROOM};
    add(&t, "\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"http://127.0.0.1/\" ContainerName=\"%s\"><Blobs>", container);
    pthread_mutex_lock(&lock);
    size_t many = copies_in(container);
    Object *pattern = many ? find("pattern/pattern", 0) : NULL;
    if (many && !pattern) many = 0;
    if (live_dirty && !pattern) {
        sorted = realloc(sorted, (count + 1) * sizeof *sorted), live = 0;
        for (size_t b = 0; b < BUCKETS; b++)
            for (Object *o = table[b]; o; o = o->next)
                if (o->exists) sorted[live++] = o;
        qsort(sorted, live, sizeof *sorted, by_name);
        live_dirty = 0;
    }
    /* Names of copies are without the container, those of objects with it. */
    char own[64];
    size_t skip = pattern ? 0 : base, low = 0, high = pattern ? many : live;
    #define NAME(i) (pattern ? copy_name(i, own) : sorted[i]->name)
    #define BELOW(i) (!strncmp(NAME(i) + skip, prefix, wanted) && (pattern || !strncmp(sorted[i]->name, start, base)))
    size_t end = high;
    char from[2 * NAME_ROOM];
    snprintf(from, sizeof from, "%s%s%s", pattern ? "" : container, pattern ? "" : "/", marker[0] ? marker : prefix);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(NAME(middle), from) < 0) low = middle + 1; else high = middle;
    }
    char folder[NAME_ROOM] = "";
    for (; low < end && left && BELOW(low); low++) {
        Object *o = pattern ? pattern : sorted[low];
        const char *called = NAME(low) + skip, *cut = delimiter[0] ? strchr(called + wanted, '/') : NULL;
        if (cut) {
            size_t length = cut + 1 - called;
            if (strlen(folder) == length && !strncmp(folder, called, length)) continue;
            copy(folder, sizeof folder, called, length);
            add(&t, "<BlobPrefix><Name>%s</Name></BlobPrefix>", escaped(folder, name));
        } else {
            add(&t, "<Blob><Name>%s</Name><Properties><Creation-Time>%s</Creation-Time><Last-Modified>%s</Last-Modified><Etag>0x%lX</Etag>"
                "<Content-Length>%zu</Content-Length><Content-Type>%s</Content-Type><Content-Encoding /><Content-Language /><Content-CRC64 />",
                escaped(called, name), o->modified, o->modified, o->version, o->size, o->type);
            if (o->md5[0]) add(&t, "<Content-MD5>%s</Content-MD5>", o->md5);
            add(&t, "<Cache-Control /><Content-Disposition /><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>"
                "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted></Properties><OrMetadata /></Blob>");
        }
        left--;
    }
    int more = low < end && BELOW(low);
    add(&t, "</Blobs><NextMarker>%s</NextMarker></EnumerationResults>", more ? escaped(NAME(low) + skip, name) : "");
    pthread_mutex_unlock(&lock);
    int done = answer(c, "200 OK", t.length, "Content-Type: application/xml\r\n") && all(c->fd, t.data, t.length);
    free(t.data);
    return done;
}

static int serve_one(Conn *c) {
    char value[NAME_ROOM];
    if (!read_head(c)) return 0;
    clock_gettime(CLOCK_MONOTONIC, &c->began);
    if (latency_us) usleep(latency_us);
    char *name = strchr(c->path + 1, '/');               /* after the account */
    name = name ? name + 1 : "";
    if (*name && name[strlen(name) - 1] == '/' && !strchr(name, '/')[1]) name[strlen(name) - 1] = 0;
    if (!strcmp(c->method, "PUT")) return put(c, name);
    free(read_body(c));
    if (!strcmp(c->method, "GET") && !strcmp(asked(c, "comp", value), "list")) return list(c, name);
    if (strchr(name, '/') && !strcmp(c->method, "GET") && !value[0]) return get(c, name, 1);
    if (strchr(name, '/') && !strcmp(c->method, "HEAD")) return get(c, name, 0);
    if (!strcmp(c->method, "DELETE")) {
        pthread_mutex_lock(&lock);
        Object *o = find(name, 0);
        int there = o && o->exists;
        if (there) o->exists = 0, live_dirty = 1;
        pthread_mutex_unlock(&lock);
        return there ? answer(c, "202 Accepted", 0, "%s", "") : fault(c, "404 Not Found", "BlobNotFound");
    }
    if (!strcmp(c->method, "GET") || !strcmp(c->method, "HEAD"))  /* the container, or the account */
        return answer(c, "200 OK", 0, "ETag: \"0x1\"\r\nLast-Modified: Tue, 24 Nov 2026 00:00:00 GMT\r\nx-ms-sku-name: Standard_LRS\r\nx-ms-account-kind: StorageV2\r\nx-ms-is-hns-enabled: false\r\n");
    return fault(c, "501 Not Implemented", "NotImplemented");
}

static void *serve(void *fd) {
    Conn *c = calloc(1, sizeof *c);
    c->fd = (int)(long)fd;
    while (serve_one(c)) {}
    close(c->fd);
    free(c);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    latency_us = argc > 2 ? (long)(atof(argv[2]) * 1000) : 0;
    bytes_per_second = argc > 3 ? atof(argv[3]) * 1048576 : 0;
    int listening = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 1024)) { perror("standin"); return 1; }
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 1 << 19);
    for (;;) {
        int fd = accept(listening, NULL, NULL);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pthread_t thread;
        if (pthread_create(&thread, &detached, serve, (void *)(long)fd)) close(fd);
    }
}
