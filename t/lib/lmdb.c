
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Drives the LMDB backend outside nginx.  Reads a command a line, prints what
 * came of it as a line:
 *
 *     open DIR MAX_SIZE INACTIVE PENDING MAX_SECRETS [KEYS]     close
 *     now SECONDS
 *     handshake KEY ENROLL SECRET      put KEY SECRET
 *     confirm SECRET GID               revoke KEY ID|*
 *     note KEY ID VERIFIED
 *     begin ... run                    changes between them are one batch
 *     prepare                          an empty one
 *     find KEY                         list AFTER
 *     stat                             check
 *     reseal                           used
 *
 * ENROLL is a word of "asana_hook_enroll"; IDs are hex, keys are %-encoded.
 * "check", after "close", walks all databases and compares the indexes with
 * the values.
 */


#include "ngx_asana_backend.h"
#include "store/ngx_asana_lmdb.h"
#include "store/ngx_asana_lmdb_usage.h"
#include "store/ngx_asana_lmdb_value.h"

#include <lmdb.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <unistd.h>


#define DRIVER_WORDS  8

#define driver_must(what)                                                     \
    if (!(what)) {                                                            \
        printf("%s:%d: this does not hold: %s\n", __FILE__, __LINE__, #what); \
        exit(1);                                                              \
    }


static char                       driver_dir[1024];
static ngx_cycle_t                driver_cycle;
static ngx_log_t                  driver_log;
static ngx_time_t                 driver_time;
static ngx_asana_backend_conf_t   driver_conf;
static void                      *driver_backend;
static ngx_queue_t                driver_batch;
static ngx_uint_t                 driver_open_batch;
static ngx_asana_counters_t       driver_counters;
static ngx_pool_cleanup_t         driver_cleanup;

volatile ngx_cycle_t             *ngx_cycle = &driver_cycle;
volatile ngx_time_t              *ngx_cached_time = &driver_time;
ngx_uint_t                        ngx_pagesize = 4096;

static const char  *driver_outcomes[] = {
    "failed", "full", "refused", "absent", "held", "changed", "added"
};


/* as much of nginx's formats as is used here */

static size_t
driver_format(char *buf, size_t size, const char *fmt, va_list args)
{
    char       *p, *last;
    size_t      n;
    ngx_str_t  *value;

    for (p = buf, last = buf + size - 1; *fmt && p < last; fmt++) {

        if (*fmt != '%') {
            *p++ = *fmt;
            continue;
        }

        switch (*++fmt) {

        case 'V':
            value = va_arg(args, ngx_str_t *);
            p += snprintf(p, last - p, "%.*s", (int) value->len, value->data);
            break;

        case 's':
            p += snprintf(p, last - p, "%s", va_arg(args, char *));
            break;

        case 'O':
            p += snprintf(p, last - p, "%ld", (long) va_arg(args, off_t));
            break;

        case 'Z':
            *p++ = '\0';
            break;

        case '*':  /* s */
            fmt++;
            n = va_arg(args, size_t);
            p += snprintf(p, last - p, "%.*s", (int) n, va_arg(args, char *));
            break;

        default:  /* ui */
            fmt++;
            p += snprintf(p, last - p, "%lu",
                          (unsigned long) va_arg(args, ngx_uint_t));
        }
    }

    driver_must(p < last);
    *p = '\0';

    return p - buf;
}


u_char *
ngx_snprintf(u_char *buf, size_t max, const char *fmt, ...)
{
    size_t   n;
    va_list  args;

    va_start(args, fmt);
    n = driver_format((char *) buf, max, fmt, args);
    va_end(args);

    return buf + n;
}


size_t
ngx_asana_json_escape(u_char *dst, ngx_str_t *text)
{
    memcpy(dst, text->data, text->len);

    return text->len;
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    char     buf[2048];
    va_list  args;

    va_start(args, fmt);
    (void) driver_format(buf, sizeof(buf), fmt, args);
    va_end(args);

    fprintf(stderr, "[%d] %s\n", (int) level, buf);
}


u_char *
ngx_hex_dump(u_char *dst, u_char *src, size_t len)
{
    static const char  hex[] = "0123456789abcdef";

    for ( /* void */ ; len--; src++) {
        *dst++ = hex[*src >> 4];
        *dst++ = hex[*src & 15];
    }

    return dst;
}


ngx_int_t
ngx_hextoi(u_char *line, size_t n)
{
    char  buf[3] = { line[0], line[1], '\0' };

    return strtol(buf, NULL, 16);
}


/* for one key file at a time */

ngx_pool_cleanup_t *
ngx_pool_cleanup_add(ngx_pool_t *pool, size_t size)
{
    driver_cleanup.data = malloc(size);

    return &driver_cleanup;
}


void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    return malloc(size);
}


void *
ngx_calloc(size_t size, ngx_log_t *log)
{
    return calloc(1, size);
}


void
ngx_explicit_memzero(void *buf, size_t n)
{
    memset(buf, 0, n);
}


static void
driver_hex(u_char *to, const char *hex)
{
    unsigned int  byte;
    ngx_uint_t    i;

    for (i = 0; i < NGX_ASANA_ID_LEN; i++) {
        driver_must(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        to[i] = (u_char) byte;
    }
}


static void
driver_key(ngx_str_t *key, char *word)
{
    char          *p;
    u_char        *to;
    unsigned int   byte;

    key->data = (u_char *) word;

    for (p = word, to = key->data; *p; to++) {

        if (*p == '%') {
            driver_must(sscanf(p + 1, "%2x", &byte) == 1);
            *to = (u_char) byte;
            p += 3;

        } else {
            *to = (u_char) *p++;
        }
    }

    key->len = to - key->data;
}


static void
driver_print_key(ngx_str_t *key)
{
    size_t  i;

    for (i = 0; i < key->len; i++) {
        printf(key->data[i] > ' ' && key->data[i] < 0x7f
               && key->data[i] != '%' ? "%c" : "%%%02x", key->data[i]);
    }
}


static void
driver_print(ngx_asana_secrets_t *secrets)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {
        printf(" %.*s:%ld:%ld:%s:%.*s", (int) s->len, s->data,
               (long) s->created, (long) s->verified,
               s->pending ? "pending" : "confirmed", (int) s->gid_len,
               s->gid);
        s = ngx_asana_secret_next(s);
    }
}


static ngx_int_t
driver_visit(ngx_asana_listing_t *listing, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    ngx_uint_t *n = listing->data;

    printf(" ");
    driver_print_key(key);
    printf("=%lu", (unsigned long) secrets->n);

    return (++*n == 1000) ? NGX_DONE : NGX_OK;
}


static void
driver_run(void)
{
    uint64_t           version;
    ngx_uint_t         n;
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    n = 0;

    do {
        ngx_asana_lmdb.change(driver_backend, &driver_batch, &driver_log);
        driver_must(n++ < 100);
    } while (ngx_asana_lmdb.adopt(driver_backend, &version, &driver_log)
             == NGX_AGAIN);

    if (ngx_queue_empty(&driver_batch)) {
        printf("prepared");
    }

    while (!ngx_queue_empty(&driver_batch)) {
        q = ngx_queue_head(&driver_batch);
        ngx_queue_remove(q);
        task = ngx_queue_data(q, ngx_asana_task_t, queue);
        printf("%s", driver_outcomes[task->outcome]);

        if (task->change.type == NGX_ASANA_RESEAL) {
            printf(" %lu left %lu", (unsigned long) task->resealed,
                   (unsigned long) task->left);
        }

        printf("%s", ngx_queue_empty(&driver_batch) ? "" : " ");
        free(task);
    }

    printf("\n");
}


static void
driver_change(char **w)
{
    char                *text, *key;
    u_char               md[32];
    ngx_str_t            word;
    ngx_asana_task_t    *task;
    ngx_asana_change_t  *c;

    task = calloc(1, sizeof(ngx_asana_task_t));
    c = &task->change;
    key = w[1];
    text = NULL;

    if (strcmp(w[0], "handshake") == 0) {
        c->type = NGX_ASANA_HANDSHAKE;
        c->creating = 1;
        word.data = (u_char *) w[2];
        word.len = strlen(w[2]);
        driver_must(ngx_asana_policy_enroll(&word, &c->enroll) == NGX_OK);
        text = w[3];

    } else if (strcmp(w[0], "put") == 0) {
        c->type = NGX_ASANA_PUT;
        text = w[2];

    } else if (strcmp(w[0], "confirm") == 0) {
        c->type = NGX_ASANA_CONFIRM;
        text = key;
        key = "";
        c->gid_len = (u_char) strlen(w[2]);
        memcpy(c->gid, w[2], c->gid_len);

    } else if (strcmp(w[0], "reseal") == 0) {
        c->type = NGX_ASANA_RESEAL;
        key = "";

    } else if (strcmp(w[0], "forget") == 0) {
        c->type = NGX_ASANA_FORGET;
        c->gid_len = (u_char) strlen(key);
        memcpy(c->gid, key, c->gid_len);
        key = "";

    } else if (strcmp(w[0], "revoke") == 0) {
        c->type = NGX_ASANA_REVOKE;
        c->all = (w[2][0] == '*');
        if (!c->all) {
            driver_hex(c->id, w[2]);
        }

    } else {
        c->type = NGX_ASANA_NOTE;
        driver_hex(c->id, w[2]);
        c->verified = atol(w[3]);
    }

    if (text) {
        c->secret_len = (u_char) strlen(text);
        memcpy(c->secret, text, c->secret_len);
        SHA256(c->secret, c->secret_len, md);
        memcpy(c->id, md, NGX_ASANA_ID_LEN);
    }

    driver_key(&task->key, key);
    memcpy(task->buf, task->key.data, task->key.len);
    task->key.data = task->buf;

    ngx_queue_insert_tail(&driver_batch, &task->queue);

    if (!driver_open_batch) {
        driver_run();
    }
}


static void
driver_find(char *key)
{
    ngx_int_t            rc;
    ngx_asana_lookup_t   lookup;
    ngx_asana_secrets_t  secrets;

    memset(&lookup, 0, sizeof(ngx_asana_lookup_t));
    ngx_asana_secrets_init(&secrets, NULL, 0);

    driver_key(&lookup.key, key);
    lookup.secrets = &secrets;

    rc = ngx_asana_lmdb.find(driver_backend, &lookup, &driver_log);

    if (rc == NGX_OK) {
        driver_must(lookup.version
                    == ngx_asana_lmdb.version(driver_backend));
        printf("found");
        driver_print(&secrets);
        printf("\n");

    } else {
        driver_must(secrets.n == 0);
        printf("not known\n");
    }

    ngx_asana_secrets_wipe(&secrets);
}


static void
driver_stat(void)
{
    ngx_asana_stat_t  stat;

    memset(&stat, 0, sizeof(ngx_asana_stat_t));

    if (ngx_asana_lmdb.stat(driver_backend, &stat, &driver_log) != NGX_OK) {
        printf("not known\n");
        return;
    }

    printf("keys %lu secrets %lu pending %lu used %lu readable %lu "
           "writable %lu\n", (unsigned long) stat.keys,
           (unsigned long) stat.secrets, (unsigned long) stat.pending,
           (unsigned long) stat.used, (unsigned long) stat.readable,
           (unsigned long) stat.writable);
}


/* each secret of a value stands where it belongs, and nothing else does */

static void
driver_check_value(MDB_txn *txn, MDB_dbi *age, MDB_dbi by_id, MDB_dbi by_gid,
    MDB_val *key, MDB_val *val, size_t *n, ngx_asana_seal_usage_t *usage)
{
    u_char                name[8 + 8 + NGX_ASANA_MAX_KEY], serial[8];
    MDB_val               k, v;
    ngx_int_t             rc;
    MDB_cursor           *cursor;
    ngx_uint_t            i, j, which;
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   secrets;
    ngx_asana_lmdb_value_t  value;

    ngx_asana_secrets_init(&secrets, NULL, 0);
    memset(&value, 0, sizeof(value));
    value.seal = driver_conf.seal;
    value.place.zone = driver_conf.zone;
    value.place.key.len = key->mv_size;
    value.place.key.data = key->mv_data;
    rc = ngx_asana_lmdb_value_decode(&value, &secrets, val->mv_data,
                                     val->mv_size);
    driver_must(rc == NGX_OK || rc == NGX_ABORT);
    driver_must(secrets.n > 0);
    ngx_asana_lmdb_value_count(&value, val->mv_data, val->mv_size, usage, 1);

    s = ngx_asana_secrets_first(&secrets);

    for (i = 0; i < secrets.n; i++) {

        which = s->pending ? 0 : s->verified ? 2 : 1;

        for (j = 0; j < 8; j++) {
            serial[j] = (u_char) (s->serial >> (56 - 8 * j));
        }

        k.mv_size = 8;
        k.mv_data = serial;
        driver_must(mdb_get(txn, age[which], &k, &v) == 0);

        memcpy(name, s->id, 8);
        memcpy(name + 8, key->mv_data, key->mv_size);
        driver_must(v.mv_size == 8 + key->mv_size
                    && memcmp(v.mv_data, name, v.mv_size) == 0);
        n[which]++;

        driver_must(mdb_get(txn, by_id, &v, &k) == 0);
        driver_must(k.mv_size == 0);

        if (s->gid_len) {
            k.mv_size = s->gid_len;
            k.mv_data = s->gid;
            driver_must(mdb_cursor_open(txn, by_gid, &cursor) == 0);
            driver_must(mdb_cursor_get(cursor, &k, &v, MDB_GET_BOTH) == 0);
            mdb_cursor_close(cursor);
            n[3]++;
        }

        s = ngx_asana_secret_next(s);
    }

    ngx_asana_secrets_wipe(&secrets);
}


static void
driver_check(void)
{
    int          err;
    size_t       n[4] = { 0, 0, 0, 0 };
    MDB_dbi      age[3], by_gid, by_id, hooks;
    MDB_env     *env;
    MDB_txn     *txn;
    MDB_val      key, val;
    MDB_stat     stat;
    ngx_uint_t   i;
    MDB_cursor  *cursor;
    ngx_asana_seal_usage_t  usage, stored;

    static const char  *names[] = {
        "pending_by_age", "unproven_by_age", "proven_by_age"
    };

    memset(&usage, 0, sizeof(usage));
    memset(&stored, 0, sizeof(stored));

    if (driver_conf.seal) {
        ngx_asana_seal_usage(driver_conf.seal, &usage);
    }

    driver_must(mdb_env_create(&env) == 0);
    mdb_env_set_maxdbs(env, 12);
    driver_must(mdb_env_open(env, (char *) driver_conf.state.data, MDB_RDONLY,
                             0) == 0);
    driver_must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0);

    for (i = 0; i < 3; i++) {
        driver_must(mdb_dbi_open(txn, names[i], 0, &age[i]) == 0);
    }

    driver_must(mdb_dbi_open(txn, "secrets_by_id", 0, &by_id) == 0);
    driver_must(mdb_dbi_open(txn, "secrets_by_gid", 0, &by_gid) == 0);
    driver_must(mdb_dbi_open(txn, "hooks", 0, &hooks) == 0);
    driver_must(mdb_cursor_open(txn, hooks, &cursor) == 0);

    while ((err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0) {
        driver_check_value(txn, age, by_id, by_gid, &key, &val, n, &usage);
    }

    driver_must(err == MDB_NOTFOUND);

    for (i = 0; i < 3; i++) {
        driver_must(mdb_stat(txn, age[i], &stat) == 0);
        driver_must(stat.ms_entries == n[i]);
    }

    driver_must(mdb_stat(txn, by_id, &stat) == 0);
    driver_must(stat.ms_entries == n[0] + n[1] + n[2]);

    driver_must(mdb_stat(txn, by_gid, &stat) == 0);
    driver_must(stat.ms_entries == n[3]);

    mdb_cursor_close(cursor);

    if (driver_conf.seal) {
        driver_must(mdb_dbi_open(txn, "meta", 0, &hooks) == 0);
        driver_must(ngx_asana_lmdb_usage_get(txn, hooks, driver_conf.seal,
                                             &stored) == 0);

        for (i = 0; i < usage.n; i++) {
            ngx_asana_seal_count(&stored, usage.keys[i].id,
                                 - (int64_t) usage.keys[i].secrets);
            usage.keys[i].secrets = 0;
        }

        for (i = 0; i < stored.n; i++) {
            driver_must(stored.keys[i].secrets == 0);
        }
    }

    mdb_txn_abort(txn);
    mdb_env_close(env);

    printf("pending %lu unproven %lu proven %lu\n", (unsigned long) n[0],
           (unsigned long) n[1], (unsigned long) n[2]);
}


static void
driver_open(char **w)
{
    ngx_str_t  file;

    snprintf(driver_dir, sizeof(driver_dir), "%s", w[1]);
    driver_conf.state.data = (u_char *) driver_dir;
    driver_conf.state.len = strlen(driver_dir);
    driver_conf.max_size = strtoul(w[2], NULL, 10);
    driver_conf.limits.inactive = atol(w[3]);
    driver_conf.limits.pending = atol(w[4]);
    driver_conf.limits.max_secrets = strtoul(w[5], NULL, 10);
    driver_conf.counters = &driver_counters;
    ngx_str_set(&driver_conf.zone, "hooks");

    if (driver_cleanup.data) {
        driver_cleanup.handler(driver_cleanup.data);
        free(driver_cleanup.data);
        driver_cleanup.data = NULL;
        driver_conf.seal = NULL;
    }

    if (w[6]) {
        file.len = strlen(w[6]);
        file.data = (u_char *) w[6];
        driver_conf.seal = ngx_asana_seal_open(NULL, &file, &driver_log);
        driver_must(driver_conf.seal);
    }

    driver_backend = ngx_asana_lmdb.create(&driver_conf, &driver_log);
    driver_must(driver_backend);

    printf("%s\n", ngx_asana_lmdb.open(driver_backend, &driver_log) == NGX_OK
                   ? "open" : "not open");
}


static void
driver_used(void)
{
    u_char            *id;
    ngx_uint_t         i, j;
    ngx_asana_stat_t   stat;

    memset(&stat, 0, sizeof(ngx_asana_stat_t));
    (void) ngx_asana_lmdb.stat(driver_backend, &stat, &driver_log);

    printf("used");

    for (i = 0; i < stat.usage.n; i++) {
        id = stat.usage.keys[i].id;

        for (printf(" "), j = 0; j < NGX_ASANA_SEAL_ID_LEN; j++) {
            printf("%02x", id[j]);
        }

        printf("=%lu", (unsigned long) stat.usage.keys[i].secrets);
    }

    printf("\n");
}


static void
driver_do(char **w)
{
    ngx_uint_t           n;
    ngx_asana_listing_t  listing;

    if (strcmp(w[0], "open") == 0) {
        driver_open(w);

    } else if (strcmp(w[0], "close") == 0) {
        ngx_asana_lmdb.close(driver_backend);
        printf("closed\n");

    } else if (strcmp(w[0], "now") == 0) {
        driver_time.sec = atol(w[1]);
        printf("now\n");

    } else if (strcmp(w[0], "begin") == 0) {
        driver_open_batch = 1;

    } else if (strcmp(w[0], "run") == 0 || strcmp(w[0], "prepare") == 0) {
        driver_open_batch = 0;
        driver_run();

    } else if (strcmp(w[0], "find") == 0) {
        driver_find(w[1]);

    } else if (strcmp(w[0], "list") == 0) {
        driver_key(&listing.after, w[1] ? w[1] : "");
        n = 0;
        listing.visit = driver_visit;
        listing.data = &n;
        printf("list");
        printf("%s\n", ngx_asana_lmdb.list(driver_backend, &listing,
                                           &driver_log) == NGX_OK
                       ? "" : " not known");

    } else if (strcmp(w[0], "stat") == 0) {
        driver_stat();

    } else if (strcmp(w[0], "used") == 0) {
        driver_used();

    } else if (strcmp(w[0], "check") == 0) {
        driver_check();

    } else if (strcmp(w[0], "commits") == 0) {
        printf("commits %lu\n", (unsigned long)
               ngx_asana_counters_total(&driver_counters.commits));

    } else {
        driver_change(w);
    }
}


int
main(int argc, char **argv)
{
    char        line[2048], *w[DRIVER_WORDS], *p;
    ngx_uint_t  i;

    driver_log.log_level = NGX_LOG_DEBUG;
    driver_time.sec = 1700000000;

    ngx_queue_init(&driver_batch);

    while (fgets(line, sizeof(line), stdin)) {

        memset(w, 0, sizeof(w));

        for (i = 0, p = strtok(line, " \n");
             p && i < DRIVER_WORDS - 1;
             p = strtok(NULL, " \n"))
        {
            w[i++] = p;
        }

        if (i) {
            driver_do(w);
            fflush(stdout);
        }
    }

    return 0;
}
