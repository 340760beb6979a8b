
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A worker without requests: the zone, the store and its backend for
 * PostgreSQL, in an event loop of poll() and nginx's timers.
 *
 *     driver URI KEYFILE ZONE POLL TIMEOUT STALE SHM
 *
 * SHM is a file for the zone's memory, which workers of one host share.  Reads
 * commands, a line each, and answers each by a line with its tag, which is a
 * "t" with a number:
 *
 *     TAG handshake KEY POLICY SECRET     put KEY SECRET
 *     TAG revoke KEY [SECRET | ID id]     note KEY SECRET
 *     TAG confirm SECRET GID
 *     TAG find KEY FRESH
 *     TAG seal KEY PENDING SECRET         unseal KEY PENDING HEX
 *     TAG stat | used | entries | reseal | quit
 */


#include "ngx_asana_hmac.h"
#include "ngx_asana_zone.h"
#include "ngx_asana_postgres.h"
#include "ngx_asana_seal.h"

#include <ngx_event.h>
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <sys/mman.h>


#define DRIVER_CONNECTIONS  16
#define DRIVER_SHM_SIZE     (1024 * 1024)

/* where the slab is in each worker, for it holds addresses */
#define DRIVER_SHM_ADDR     ((void *) 0x7ea000000000)

#define check(what)                                                           \
    if (!(what)) {                                                            \
        fprintf(stderr, "%s:%d: this does not hold: %s\n",                    \
                __FILE__, __LINE__, #what);                                   \
        abort();                                                              \
    }


typedef struct {
    ngx_queue_t           queue;
    char                  tag[32];
    ngx_asana_lookup_t    lookup;
    ngx_asana_secrets_t   secrets;
    char                  key[NGX_ASANA_MAX_KEY];
} driver_find_t;


static void driver_handler(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);
static void driver_found(ngx_asana_lookup_t *lookup);


volatile ngx_cycle_t  *ngx_cycle;
sig_atomic_t           ngx_terminate;
sig_atomic_t           driver_quit;
ngx_pid_t              ngx_pid;
ngx_int_t              ngx_ncpu = 1;

static ngx_connection_t  driver_connections[DRIVER_CONNECTIONS];
static ngx_event_t       driver_events[DRIVER_CONNECTIONS];
static ngx_asana_zone_t *driver_zone;
static ngx_asana_backend_conf_t *driver_conf;
static ngx_queue_t       driver_finds;


ngx_connection_t *
ngx_get_connection(ngx_socket_t s, ngx_log_t *log)
{
    ngx_uint_t  i;

    for (i = 0; i < DRIVER_CONNECTIONS; i++) {

        if (driver_connections[i].read == NULL) {
            memset(&driver_connections[i], 0, sizeof(ngx_connection_t));
            memset(&driver_events[i], 0, sizeof(ngx_event_t));

            driver_connections[i].fd = s;
            driver_connections[i].read = &driver_events[i];
            driver_events[i].data = &driver_connections[i];

            return &driver_connections[i];
        }
    }

    return NULL;
}


void
ngx_close_connection(ngx_connection_t *c)
{
    close(c->fd);
    c->read = NULL;
}


ngx_int_t
ngx_handle_read_event(ngx_event_t *rev, ngx_uint_t flags)
{
    return NGX_OK;
}


/* libpq's: a resolver that is silent for long */

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
    struct addrinfo **res)
{
    static int  (*next)(const char *, const char *, const struct addrinfo *,
                        struct addrinfo **);

    if (node && strcmp(node, "slow.invalid") == 0) {
        sleep(4);
        return EAI_AGAIN;
    }

    if (next == NULL) {
        *(void **) &next = dlsym(RTLD_NEXT, "getaddrinfo");
    }

    return next(node, service, hints, res);
}


int
ngx_nonblocking(ngx_socket_t s)
{
    return fcntl(s, F_SETFL, fcntl(s, F_GETFL) | O_NONBLOCK);
}


void
ngx_debug_point(void)
{
    abort();
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    u_char              *p, line[NGX_MAX_ERROR_STR];
    va_list              args;

    static const char   *levels[] = {
        "", "emerg", "alert", "crit", "error", "warn", "notice", "info",
        "debug"
    };

    p = ngx_snprintf(line, sizeof(line) - 1, "[%s] ", levels[level]);

    va_start(args, fmt);
    p = ngx_vslprintf(p, line + sizeof(line) - 1, fmt, args);
    va_end(args);

    *p++ = '\n';

    (void) !write(log->file->fd, line, p - line);
}


static char *
driver_word(char **line)
{
    char  *p;

    p = strsep(line, " ");

    return p ? p : (char *) "";
}


static ngx_asana_zone_t *
driver_open(char **argv, ngx_pool_t *pool)
{
    int                        fd;
    struct stat                st;
    ngx_str_t                  file;
    ngx_uint_t                 exists;
    ngx_shm_zone_t             shm_zone;
    ngx_slab_pool_t           *sp;
    ngx_asana_zone_t          *zone;
    ngx_asana_backend_conf_t  *conf;

    conf = ngx_pcalloc(pool, sizeof(ngx_asana_backend_conf_t));
    check(conf);
    driver_conf = conf;

    conf->state.data = (u_char *) argv[1];
    conf->state.len = strlen(argv[1]);
    file.data = (u_char *) argv[2];
    file.len = strlen(argv[2]);
    conf->zone.data = (u_char *) argv[3];
    conf->zone.len = strlen(argv[3]);
    conf->poll = atoi(argv[4]);
    conf->timeout = atoi(argv[5]);
    conf->stale = atoi(argv[6]);
    conf->limits.inactive = 86400;
    conf->limits.pending = 300;
    conf->limits.max_secrets = 16;

    conf->seal = ngx_asana_seal_open(pool, &file, ngx_cycle->log);
    check(conf->seal && (ngx_asana_postgres.check)(conf) == NULL);

    fd = open(argv[7], O_RDWR|O_CREAT, 0600);
    check(fd != -1 && fstat(fd, &st) == 0);
    exists = (st.st_size != 0);
    check(exists || ftruncate(fd, DRIVER_SHM_SIZE) == 0);

    memset(&shm_zone, 0, sizeof(shm_zone));
    shm_zone.shm.addr = mmap(DRIVER_SHM_ADDR, DRIVER_SHM_SIZE,
                             PROT_READ|PROT_WRITE,
                             MAP_SHARED|MAP_FIXED_NOREPLACE, fd, 0);
    check(shm_zone.shm.addr == DRIVER_SHM_ADDR);
    close(fd);

    shm_zone.shm.size = DRIVER_SHM_SIZE;
    shm_zone.shm.exists = exists;
    shm_zone.shm.name = conf->zone;

    sp = (ngx_slab_pool_t *) shm_zone.shm.addr;

    if (!exists) {
        sp->end = shm_zone.shm.addr + DRIVER_SHM_SIZE;
        sp->min_shift = 3;
        sp->addr = shm_zone.shm.addr;

        check(ngx_shmtx_create(&sp->mutex, &sp->lock, NULL) == NGX_OK);
        ngx_slab_init(sp);
    }

    zone = ngx_asana_zone_create(pool, &ngx_asana_postgres, conf);
    check(zone && ngx_asana_zone_init(zone, &shm_zone, NULL, 0)
          == NGX_OK);
    check(ngx_asana_zone_open(zone, (ngx_cycle_t *) ngx_cycle) == NGX_OK);

    return zone;
}


static void
driver_change(char *tag, ngx_asana_change_e type, char *line)
{
    char              *secret, *gid;
    ngx_str_t          key;
    ngx_asana_task_t  *task;

    key.data = (u_char *) "";
    key.len = 0;

    if (!ngx_asana_task_keyless(type)) {
        key.data = (u_char *) driver_word(&line);
        key.len = strlen((char *) key.data);
    }

    task = ngx_asana_task_create(type, &key, ngx_cycle->log);
    check(task);

    if (type == NGX_ASANA_HANDSHAKE) {
        secret = driver_word(&line);
        key.data = (u_char *) secret;
        key.len = strlen(secret);
        check(ngx_asana_policy_enroll(&key, &task->change.enroll) == NGX_OK);
    }

    secret = (type == NGX_ASANA_FORGET) ? (char *) "" : driver_word(&line);
    gid = driver_word(&line);

    task->change.verified = 1;      /* noted twice, it is the same note */
    task->change.all = (*secret == '\0');
    task->change.secret_len = strlen(secret);
    memcpy(task->change.secret, secret, task->change.secret_len);
    task->change.gid_len = strlen(gid);
    memcpy(task->change.gid, gid, task->change.gid_len);

    ngx_asana_hmac_id((u_char *) secret, strlen(secret), task->change.id);

    if (strcmp(gid, "id") == 0) {
        memcpy(task->change.id, secret, NGX_ASANA_ID_LEN);
    }

    task->handler = driver_handler;
    task->data = (void *) (uintptr_t) atoi(tag + 1);

    if (ngx_asana_zone_post(driver_zone, task) != NGX_AGAIN) {
        printf("%s NOT POSTED\n", tag);
    }
}


static void
driver_handler(ngx_asana_task_t *task, ngx_asana_outcome_e outcome)
{
    static const char  *outcomes[] = {
        "FAILED", "FULL", "REFUSED", "ABSENT", "HELD", "CHANGED", "ADDED"
    };

    printf("t%d %s", (int) (uintptr_t) task->data, outcomes[outcome]);

    if (task->change.type == NGX_ASANA_RESEAL) {
        printf(" %d %d", (int) task->resealed, (int) task->left);
    }

    printf("\n");
}


static void
driver_find(char *tag, char *line)
{
    driver_find_t  *find;

    find = calloc(1, sizeof(driver_find_t));
    check(find);

    snprintf(find->tag, sizeof(find->tag), "%s", tag);
    snprintf(find->key, sizeof(find->key), "%s", driver_word(&line));

    ngx_asana_secrets_init(&find->secrets, NULL, 0);

    find->lookup.key.data = (u_char *) find->key;
    find->lookup.key.len = strlen(find->key);
    find->lookup.hash = ngx_murmur_hash2(find->lookup.key.data,
                                     find->lookup.key.len);
    find->lookup.fresh = atoi(driver_word(&line));
    find->lookup.secrets = &find->secrets;
    find->lookup.handler = driver_found;
    find->lookup.data = find;

    ngx_queue_insert_tail(&driver_finds, &find->queue);

    find->lookup.rc = ngx_asana_zone_find(driver_zone, &find->lookup);

    if (strcmp(driver_word(&line), "cancel") == 0
        && find->lookup.rc == NGX_AGAIN)
    {
        ngx_asana_zone_cancel(driver_zone, &find->lookup.queue);
        printf("%s CANCELLED\n", tag);
        ngx_queue_remove(&find->queue);
        free(find);
        return;
    }

    if (find->lookup.rc != NGX_AGAIN) {
        driver_found(&find->lookup);
    }
}


static void
driver_found(ngx_asana_lookup_t *lookup)
{
    ngx_uint_t           i;
    driver_find_t       *find;
    ngx_asana_secret_t  *s;

    find = lookup->data;

    printf("%s %s", find->tag, lookup->rc == NGX_OK ? "OK"
                        : lookup->rc == NGX_DECLINED ? "DECLINED" : "ERROR");

    s = ngx_asana_secrets_first(&find->secrets);

    for (i = 0; i < find->secrets.n; i++) {
        printf(" %.*s:%s:%.*s", s->len, s->data,
               s->pending ? "pending" : s->verified ? "verified" : "new",
               s->gid_len, s->gid);
        s = ngx_asana_secret_next(s);
    }

    printf("\n");

    ngx_asana_secrets_wipe(&find->secrets);
    ngx_queue_remove(&find->queue);
    free(find);
}


static void
driver_seal(char *tag, char *line, ngx_uint_t unseal)
{
    char                    *text;
    u_char                   buf[NGX_ASANA_SEAL_MAX + 1];
    u_char                   sealed[NGX_ASANA_SEAL_MAX + 1];
    u_char                   id[NGX_ASANA_ID_LEN];
    size_t                   i, len;
    ngx_int_t                rc;
    ngx_asana_seal_place_t   place;

    place.zone = driver_conf->zone;
    place.key.data = (u_char *) driver_word(&line);
    place.key.len = strlen((char *) place.key.data);
    place.pending = atoi(driver_word(&line));
    place.id = id;

    /* for the test it is the key that names the secret */

    ngx_asana_hmac_id(place.key.data, 1, id);

    text = driver_word(&line);

    if (!unseal) {
        len = ngx_asana_seal_encrypt(driver_conf->seal, &place,
                             (u_char *) text, strlen(text), sealed);
        printf("%s ", tag);

        for (i = 0; i < len; i++) {
            printf("%02x", sealed[i]);
        }

        printf("\n");
        return;
    }

    len = strlen(text) / 2;
    check(len <= sizeof(sealed));

    for (i = 0; i < len; i++) {
        sealed[i] = (u_char) ngx_hextoi((u_char *) text + 2 * i, 2);
    }

    memset(buf, 0, sizeof(buf));
    rc = ngx_asana_seal_decrypt(driver_conf->seal, &place,
                          sealed, len, buf, &len);

    if (rc == NGX_OK) {
        printf("%s %.*s\n", tag, (int) len, buf);
        return;
    }

    /* nothing is left of what is not to be believed */

    for (i = 0; i < sizeof(buf); i++) {
        check(buf[i] == 0);
    }

    printf("%s %s\n", tag, rc == NGX_DECLINED ? "UNKNOWN" : "BAD");
}


static void
driver_command(char *line)
{
    char                    *tag, *word;
    ngx_uint_t               i;
    ngx_asana_stat_t         stat;
    ngx_asana_zone_usage_t   usage;

    static const char       *types[] = {
        "handshake", "put", "confirm", "revoke", "note", "forget", "reseal"
    };

    tag = driver_word(&line);
    word = driver_word(&line);

    for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(word, types[i]) == 0) {
            driver_change(tag, i, line);
            return;
        }
    }

    if (strcmp(word, "find") == 0) {
        driver_find(tag, line);

    } else if (strcmp(word, "seal") == 0) {
        driver_seal(tag, line, 0);

    } else if (strcmp(word, "unseal") == 0) {
        driver_seal(tag, line, 1);

    } else if (strcmp(word, "stat") == 0) {
        (void) ngx_asana_zone_stat(driver_zone, &stat);
        printf("%s %d %d %d %d %d\n", tag, (int) stat.readable,
               (int) stat.writable, (int) stat.keys, (int) stat.secrets,
               (int) stat.pending);

    } else if (strcmp(word, "used") == 0) {
        (void) ngx_asana_zone_stat(driver_zone, &stat);
        printf("%s USED", tag);

        for (i = 0; i < stat.usage.n; i++) {
            printf(" %02x%02x=%d", stat.usage.keys[i].id[0],
                   stat.usage.keys[i].id[1],
                   (int) stat.usage.keys[i].secrets);
        }

        printf("\n");

    } else if (strcmp(word, "entries") == 0) {
        ngx_asana_zone_usage(driver_zone, &usage);
        printf("%s %d\n", tag, (int) usage.entries);

    } else {
        check(strcmp(word, "quit") == 0);
        driver_quit = 1;
    }
}


static void
driver_read(void)
{
    char            *line, *end;
    ssize_t          n;

    static char      buf[65536];
    static size_t    len;

    n = read(0, buf + len, sizeof(buf) - len - 1);

    if (n <= 0) {
        driver_quit = 1;
        return;
    }

    len += n;
    buf[len] = '\0';

    for (line = buf; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        driver_command(line);
    }

    len -= line - buf;
    memmove(buf, line, len);
}


static void
driver_turn(void)
{
    nfds_t          n;
    ngx_uint_t      i;
    ngx_msec_t      timer;
    struct pollfd   pfds[DRIVER_CONNECTIONS + 1];
    ngx_event_t    *events[DRIVER_CONNECTIONS + 1];

    pfds[0].fd = 0;
    pfds[0].events = POLLIN;

    for (i = 0, n = 1; i < DRIVER_CONNECTIONS; i++) {

        if (driver_connections[i].read) {
            pfds[n].fd = driver_connections[i].fd;
            pfds[n].events = POLLIN;
            events[n++] = driver_connections[i].read;
        }
    }

    fflush(stdout);

    timer = ngx_event_find_timer();
    (void) poll(pfds, n, timer == NGX_TIMER_INFINITE ? 1000 : (int) timer);

    ngx_time_update();
    ngx_event_expire_timers();

    for (i = 1; i < n; i++) {
        if (pfds[i].revents && ((ngx_connection_t *) events[i]->data)->read) {
            events[i]->ready = 1;
            events[i]->handler(events[i]);
        }
    }

    if (pfds[0].revents) {
        driver_read();
    }
}


int
main(int argc, char **argv)
{
    ngx_log_t        log;
    ngx_pool_t      *pool;
    ngx_cycle_t      cycle;
    ngx_msec_t       start;
    driver_find_t   *find;
    ngx_open_file_t  file;

    check(argc == 8);

    ngx_pid = getpid();
    ngx_pagesize = getpagesize();
    ngx_cacheline_size = 64;

    for (ngx_pagesize_shift = 0; ngx_pagesize >> (ngx_pagesize_shift + 1);
         ngx_pagesize_shift++)
    {
        /* void */
    }

    memset(&log, 0, sizeof(log));
    memset(&file, 0, sizeof(file));
    memset(&cycle, 0, sizeof(cycle));

    file.fd = 2;
    log.file = &file;
    log.log_level = NGX_LOG_INFO;
    cycle.log = &log;
    ngx_cycle = &cycle;

    ngx_time_init();
    ngx_slab_sizes_init();
    check(ngx_event_timer_init(&log) == NGX_OK);

    pool = ngx_create_pool(4096, &log);
    check(pool);

    ngx_queue_init(&driver_finds);
    driver_zone = driver_open(argv, pool);

    while (!driver_quit) {
        driver_turn();
    }

    while (!ngx_queue_empty(&driver_finds)) {
        find = ngx_queue_data(ngx_queue_head(&driver_finds), driver_find_t,
                              queue);
        ngx_queue_remove(&find->queue);
        ngx_asana_zone_cancel(driver_zone, &find->lookup.queue);
        free(find);
    }

    start = ngx_current_msec;
    ngx_asana_zone_close(driver_zone);
    ngx_time_update();

    printf("closed after %d\n", (int) (ngx_current_msec - start));

    ngx_destroy_pool(pool);

    return 0;
}
