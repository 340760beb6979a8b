
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_HOOK_H_INCLUDED_
#define _NGX_HTTP_ASANA_HOOK_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/*
 * The map of the module; each part knows only what stands to its right:
 *
 *     module, conf -> handler, delivery, handshake -> header, signature
 *                  -> ack
 *                  -> register -> json
 *                  -> api -> args, metrics, out
 *                            -> zone -> store -> group
 *                                             -> batch -> ops -> records
 *                                             -> env
 *
 * module     directives, configuration, variables
 * conf       the directive asana_hook_zone
 * handler    the decision on each request, its count, our answers
 * delivery   who may bring a delivery
 * handshake  who may bring a secret
 * header     request headers: of the protocol, and the word for the application
 * ack        header filter that tells Asana success in the way it knows
 * register   filters of the gateway, through which webhooks are created
 * json       a strict scanner for one member of an object
 * api        control API: JSON for the operator
 * args       its arguments
 * site       tells what a browser sends from another site
 * metrics    the same for Prometheus
 * out        text of both
 * signature  HMAC-SHA256 over a request body
 * zone       shared memory: the cache of the store; set: secrets of one key
 * touch      counts and times of deliveries in the zone
 * creates    create calls in flight, in the zone
 * store      LMDB, the truth: environment, look-ups
 * group      gathers changes for a thread, which makes them durable together
 * env        LMDB: opens it, and sees whether it may be written
 * batch      LMDB: carries them out, in one transaction
 * ops        LMDB: what an operation does within it; room: a full store
 * records    LMDB: the layout of what is kept
 */


#define NGX_HTTP_ASANA_HOOK_VERSION     "0.1.0"

#define NGX_HTTP_ASANA_HOOK_ID_LEN      8
#define NGX_HTTP_ASANA_HOOK_MAC_LEN     32
#define NGX_HTTP_ASANA_HOOK_MAX_KEY     480
#define NGX_HTTP_ASANA_HOOK_MIN_SECRET  16
#define NGX_HTTP_ASANA_HOOK_MAX_SECRET  255


/*
 * A secret as the zone keeps it and as it is copied out: records of
 * varying length follow each other, each aligned to eight bytes.
 */

typedef struct {
    time_t                         created;
    time_t                         verified;    /* last delivery, 0: none */
    time_t                         stored;      /* "verified" in the store */
    ngx_uint_t                     deliveries;  /* while in the zone */
    u_char                         id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    u_char                         pending;     /* not confirmed yet */
    u_char                         len;
    u_char                         data[1];     /* the secret, len bytes */
} ngx_http_asana_hook_secret_t;


#define ngx_http_asana_hook_secret_size(len)                                  \
    ngx_align(offsetof(ngx_http_asana_hook_secret_t, data) + (len), 8)

#define ngx_http_asana_hook_secret_next(s)                                    \
    (ngx_http_asana_hook_secret_t *)                                          \
        ((u_char *) (s) + ngx_http_asana_hook_secret_size((s)->len))

/* clocks of workers differ by less; a time that is later counts as now */
#define NGX_HTTP_ASANA_HOOK_SKEW  60

/* a secret counts as active for "inactive" seconds after this */

#define ngx_http_asana_hook_secret_seen(s)                                    \
    ngx_max((s)->created, (s)->verified)


/* copies of all secrets of one key; "start" is wiped by set_wipe() only */

typedef struct {
    ngx_pool_t                    *pool;
    u_char                        *start;
    u_char                        *end;
    size_t                         size;        /* of the secrets in it */
    ngx_uint_t                     n;
    uint64_t                       txnid;       /* of the read behind it */
} ngx_http_asana_hook_set_t;


typedef enum {
    NGX_HTTP_ASANA_HOOK_OFF = 0,
    NGX_HTTP_ASANA_HOOK_FIRST,
    NGX_HTTP_ASANA_HOOK_OPEN,
    NGX_HTTP_ASANA_HOOK_CONFIRM,
    NGX_HTTP_ASANA_HOOK_REGISTER     /* confirm, during a create call */
} ngx_http_asana_hook_policy_e;


#if !(NGX_THREADS)
typedef struct ngx_thread_pool_s            ngx_thread_pool_t;
#endif

struct MDB_env;
struct MDB_txn;
struct MDB_cursor;
struct MDB_val;

typedef struct ngx_http_asana_hook_store_s  ngx_http_asana_hook_store_t;
typedef struct ngx_http_asana_hook_op_s     ngx_http_asana_hook_op_t;

typedef void (*ngx_http_asana_hook_op_pt)(ngx_http_asana_hook_op_t *op);


typedef enum {
    NGX_HTTP_ASANA_HOOK_ENROLL = 0,    /* a handshake */
    NGX_HTTP_ASANA_HOOK_TOUCH,         /* the time of the last delivery */
    NGX_HTTP_ASANA_HOOK_PUT,           /* the operator's secret */
    NGX_HTTP_ASANA_HOOK_REMOVE,        /* one secret of the key, or all */
    NGX_HTTP_ASANA_HOOK_ACTIVATE       /* a pending one, whatever its key */
} ngx_http_asana_hook_op_e;


/* what a zone knows of a secret's last delivery, newer than the store */

typedef struct {
    u_char                         id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    time_t                         verified;
} ngx_http_asana_hook_seen_t;


/* a change of the store; in memory of its own, for it outlives requests */

struct ngx_http_asana_hook_op_s {
    ngx_queue_t                    queue;
    ngx_http_asana_hook_op_e       type;
    ngx_http_asana_hook_policy_e   policy;
    ngx_int_t                      rc;          /* the outcome */

    ngx_http_asana_hook_op_pt      handler;     /* if posted, on completion */
    void                          *data;

    time_t                         now;
    time_t                         inactive;
    time_t                         pending;
    ngx_uint_t                     max_secrets;
    ngx_uint_t                     max_pending; /* of the whole store */

    unsigned                       all:1;       /* REMOVE: without an id */
    unsigned                       correct:1;   /* TOUCH: a later time alone */
    unsigned                       created:1;   /* PUT: there was none */

    size_t                         size;        /* of this allocation */
    ngx_uint_t                     nseen;
    ngx_http_asana_hook_seen_t    *seen;

    u_char                         id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    size_t                         key_len;
    size_t                         secret_len;
    u_char                         key[NGX_HTTP_ASANA_HOOK_MAX_KEY];
    u_char                         secret[NGX_HTTP_ASANA_HOOK_MAX_SECRET];
};


/* status words; of deliveries those from VERIFIED to ERROR */

typedef enum {
    NGX_HTTP_ASANA_HOOK_NONE = 0,
    NGX_HTTP_ASANA_HOOK_HANDSHAKE,
    NGX_HTTP_ASANA_HOOK_REFUSED,
    NGX_HTTP_ASANA_HOOK_VERIFIED,
    NGX_HTTP_ASANA_HOOK_HEARTBEAT,
    NGX_HTTP_ASANA_HOOK_PENDING,
    NGX_HTTP_ASANA_HOOK_UNSIGNED,
    NGX_HTTP_ASANA_HOOK_UNKNOWN,
    NGX_HTTP_ASANA_HOOK_INVALID,
    NGX_HTTP_ASANA_HOOK_MALFORMED,
    NGX_HTTP_ASANA_HOOK_ABORTED,
    NGX_HTTP_ASANA_HOOK_ERROR,
    NGX_HTTP_ASANA_HOOK_BYPASS,
    NGX_HTTP_ASANA_HOOK_REGISTERED,
    NGX_HTTP_ASANA_HOOK_WORDS
} ngx_http_asana_hook_status_e;


/* each with the suffix that a dry run adds */
extern ngx_str_t  ngx_http_asana_hook_words[];

#define NGX_HTTP_ASANA_HOOK_DRY_RUN  "_DRY_RUN"


/* commits of all workers, by the time that they took */

#define NGX_HTTP_ASANA_HOOK_BUCKETS  14

/* slots for the causes of failures that were logged lately */
#define NGX_HTTP_ASANA_HOOK_TOLD     61

typedef struct {
    ngx_atomic_t                   usec;
    ngx_atomic_t                   bucket[NGX_HTTP_ASANA_HOOK_BUCKETS + 1];
    ngx_atomic_t                   told[NGX_HTTP_ASANA_HOOK_TOLD];
} ngx_http_asana_hook_commits_t;

/* upper bounds of the buckets, microseconds; the last one has none */
extern ngx_uint_t  ngx_http_asana_hook_bounds[];


/* what is kept in shared memory beside the cache */

typedef struct {
    ngx_atomic_t                   handshakes[NGX_HTTP_ASANA_HOOK_WORDS];
    ngx_atomic_t                   deliveries[NGX_HTTP_ASANA_HOOK_WORDS];
    ngx_atomic_t                   dry_run[NGX_HTTP_ASANA_HOOK_WORDS];
    ngx_atomic_t                   creates[NGX_HTTP_ASANA_HOOK_WORDS];
    ngx_http_asana_hook_commits_t  commits;
} ngx_http_asana_hook_counters_t;


typedef struct {
    uint64_t                       keys;
    uint64_t                       secrets;     /* pending ones as well */
    uint64_t                       pending;
    uint64_t                       size;        /* bytes in use */
} ngx_http_asana_hook_stat_t;


typedef struct ngx_http_asana_hook_shctx_s    ngx_http_asana_hook_shctx_t;
typedef struct ngx_http_asana_hook_touches_s  ngx_http_asana_hook_touches_t;
typedef struct ngx_http_asana_hook_creates_s  ngx_http_asana_hook_creates_t;
typedef struct ngx_http_asana_hook_hmac_s     ngx_http_asana_hook_hmac_t;


typedef struct {
    ngx_http_complex_value_t       key;
    ngx_str_t                      name;
    ngx_path_t                    *state;
    ngx_array_t                   *zones;       /* all of the module */
    ngx_thread_pool_t             *thread_pool;
    ngx_int_t                      max_size;
    ngx_int_t                      inactive;
    ngx_int_t                      pending;
    ngx_int_t                      max_secrets;

    ngx_http_asana_hook_shctx_t   *sh;
    ngx_slab_pool_t               *shpool;

    ngx_http_asana_hook_counters_t  *counters;

    /* of this process */
    ngx_http_asana_hook_hmac_t    *hmac;
    ngx_http_asana_hook_store_t   *store;
    ngx_http_asana_hook_touches_t *touches;
    ngx_http_asana_hook_creates_t *creates;   /* in the zone */

    unsigned                       gateway:1; /* create calls are counted */
    unsigned                       closing:1; /* nothing is written any more */
} ngx_http_asana_hook_zone_t;


/*
 * signature: knows neither zones nor requests.
 */

/*
 * Returns HMAC state of a zone that lives as long as the pool; each process
 * uses its own copy, in its main thread alone.  NULL if OpenSSL fails, with a
 * line in the log.
 */
ngx_http_asana_hook_hmac_t *ngx_http_asana_hook_hmac_create(ngx_pool_t *pool,
    ngx_log_t *log);

/*
 * Computes HMAC-SHA256 (RFC 2104) of the body with the text of the secret
 * as the key (Asana, "Webhooks guide") into mac[MAC_LEN].  Keys of secrets
 * are kept ready; the first call with another txnid, that of the transaction
 * in which the secret was read, overwrites them, once a second at most.
 * Buffers are read where they lie, in memory or in a file, and left unchanged.
 * NGX_ERROR if OpenSSL fails or a file cannot be read; the reason is logged.
 */
ngx_int_t ngx_http_asana_hook_hmac(ngx_http_asana_hook_hmac_t *hmac,
    ngx_http_asana_hook_secret_t *s, uint64_t txnid, ngx_chain_t *body,
    ngx_pool_t *pool, u_char *mac);

/* Writes SHA-256(secret), cut to ID_LEN bytes, to id; NGX_ERROR on failure. */
ngx_int_t ngx_http_asana_hook_secret_id(u_char *secret, size_t len,
    u_char *id);

/*
 * Reads the 64 hex digits of X-Hook-Signature into mac[MAC_LEN];
 * NGX_DECLINED if the value is anything else.
 */
ngx_int_t ngx_http_asana_hook_signature_parse(ngx_str_t *value, u_char *mac);

/*
 * NGX_OK if the body is a heartbeat, {"events":[]} in any spacing (RFC 8259),
 * NGX_DECLINED if not, NGX_ERROR if a file cannot be read.
 */
ngx_int_t ngx_http_asana_hook_heartbeat(ngx_chain_t *body, ngx_pool_t *pool);


/*
 * zone: all functions take the slab pool's mutex themselves, for a few
 * pointer writes, and are called in a worker's main thread.
 */

/* An ngx_shm_zone_init_pt; runs in the master. */
ngx_int_t ngx_http_asana_hook_zone_init(ngx_shm_zone_t *shm_zone, void *data);

/* Opens the store for this worker; a store that fails is logged and tried
 * again later, NGX_ERROR means no memory. */
ngx_int_t ngx_http_asana_hook_zone_open(ngx_http_asana_hook_zone_t *zone,
    ngx_cycle_t *cycle);

/* Writes back what this worker counted, and closes the store. */
void ngx_http_asana_hook_zone_close(ngx_http_asana_hook_zone_t *zone,
    ngx_log_t *log);

/*
 * Copies all secrets of the key into the set, from the cache if it is as new
 * as the store, else from the store; those past "pending" are left out.
 * NGX_OK with set->n >= 1, NGX_DECLINED if the key has none, NGX_ERROR if
 * that cannot be known.  The caller wipes the set.
 */
ngx_int_t ngx_http_asana_hook_zone_find(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash, ngx_http_asana_hook_set_t *set,
    ngx_log_t *log);

/* Whether the store has changed since the set was copied. */
ngx_uint_t ngx_http_asana_hook_zone_moved(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_set_t *set);

/*
 * Returns an operation on the key by the zone's parameters, which knows what
 * the set says of its secrets, or NULL.
 */
ngx_http_asana_hook_op_t *ngx_http_asana_hook_zone_op(
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_op_e type,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set, ngx_log_t *log);

/* Drops the key from the cache, after secrets of it were revoked. */
void ngx_http_asana_hook_zone_forget(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash);

/* Adds what the cache has counted to a set that came from the store. */
void ngx_http_asana_hook_zone_update(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash, ngx_http_asana_hook_set_t *set);

/*
 * A create call begins and ends; the counts of a process that died are not
 * believed, so nothing keeps the door of "asana_hook_enroll register" open.
 */
void ngx_http_asana_hook_zone_create_begin(ngx_http_asana_hook_zone_t *zone);
void ngx_http_asana_hook_zone_create_end(ngx_http_asana_hook_zone_t *zone);

/* Whether any worker of this nginx has a create call in flight. */
ngx_uint_t ngx_http_asana_hook_zone_creating(ngx_http_asana_hook_zone_t *zone);

/* Entries of the cache, and free pages of the zone. */
void ngx_http_asana_hook_zone_usage(ngx_http_asana_hook_zone_t *zone,
    ngx_uint_t *entries, ngx_uint_t *free);

/*
 * Notes that the secret verified a delivery now.  Takes no lock: the notes
 * of one turn of the event loop are brought to the zone together at its end.
 */
void ngx_http_asana_hook_zone_touch(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash, ngx_http_asana_hook_secret_t *s,
    ngx_log_t *log);


/*
 * zone, touch, creates: what they share.  An entry holds all secrets of one
 * key in one piece of slab memory, its records behind the key.
 */

typedef struct {
    ngx_str_node_t                 sn;         /* must be first */
    ngx_queue_t                    queue;
    uint64_t                       txnid;
    uint32_t                       capacity;   /* of records, bytes */
    uint32_t                       size;       /* of records, bytes */
    uint32_t                       n;
    u_char                         data[1];
} ngx_http_asana_hook_entry_t;


struct ngx_http_asana_hook_shctx_s {
    ngx_rbtree_t                     rbtree;
    ngx_rbtree_node_t                sentinel;
    ngx_queue_t                      queue;    /* least recently used last */
    ngx_uint_t                       entries;
    ngx_http_asana_hook_creates_t   *creates;  /* of all workers, or NULL */
    ngx_http_asana_hook_counters_t   counters;
};


/*
 * Create calls of one worker, written by it alone.  Not kept by ngx_worker,
 * which the workers of two generations have in common.
 */

struct ngx_http_asana_hook_creates_s {
    ngx_atomic_t                   pid;
    ngx_atomic_t                   count;
    ngx_atomic_t                   last;       /* start of the latest one */
};


/* workers of all generations whose create calls are counted */
#define NGX_HTTP_ASANA_HOOK_CREATES   256


/* the records lie behind the key */

#define ngx_http_asana_hook_entry_records(entry)                              \
    ((u_char *) (entry) + ngx_http_asana_hook_entry_size((entry)->sn.str.len))

#define ngx_http_asana_hook_entry_size(key_len)                               \
    ngx_align(offsetof(ngx_http_asana_hook_entry_t, data) + (key_len), 8)


/* Both under the zone's mutex; NULL if there is none. */
ngx_http_asana_hook_entry_t *ngx_http_asana_hook_zone_lookup(
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *key, uint32_t hash);
ngx_http_asana_hook_secret_t *ngx_http_asana_hook_zone_secret(
    u_char *records, ngx_uint_t n, u_char *id);

/* Prepares the notes of this worker; NGX_ERROR means no memory. */
ngx_int_t ngx_http_asana_hook_zone_touches(ngx_http_asana_hook_zone_t *zone,
    ngx_cycle_t *cycle);

/* Brings the notes of this worker to the zone. */
void ngx_http_asana_hook_zone_flush(ngx_http_asana_hook_zone_t *zone,
    ngx_log_t *log);

/* Has the store bring times of the key back that are later than now. */
void ngx_http_asana_hook_zone_correct(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set, ngx_log_t *log);

/* Takes a place among those who create, from the dead if need be. */
void ngx_http_asana_hook_zone_creates(ngx_http_asana_hook_zone_t *zone);


/*
 * set
 */

/*
 * Makes room for a secret of len bytes behind the others and returns it,
 * with "len" set and the rest to be filled in; NULL if there is no memory.
 */
ngx_http_asana_hook_secret_t *ngx_http_asana_hook_set_push(
    ngx_http_asana_hook_set_t *set, size_t len);

/* Makes room for size bytes in an empty set; NGX_ERROR if there is none. */
ngx_int_t ngx_http_asana_hook_set_reserve(ngx_http_asana_hook_set_t *set,
    size_t size);

/*
 * Brings times that are later than now back to it; returns how many of
 * confirmed secrets.
 */
ngx_uint_t ngx_http_asana_hook_set_correct(ngx_http_asana_hook_set_t *set);

/* Leaves out those that are pending since more than "pending" seconds. */
void ngx_http_asana_hook_set_expire(ngx_http_asana_hook_set_t *set,
    time_t pending);

/* Empties the set and overwrites its memory. */
void ngx_http_asana_hook_set_wipe(ngx_http_asana_hook_set_t *set);


/*
 * store: nothing but it and its records know LMDB.  Opened after fork, closed
 * before exit; called in a worker's main thread.
 */

/*
 * Never opens anything by itself; NULL if there is no memory.  Without a
 * thread pool all operations are carried out in store_post().
 */
ngx_http_asana_hook_store_t *ngx_http_asana_hook_store_create(
    ngx_pool_t *pool, ngx_str_t *path, size_t max_size,
    ngx_thread_pool_t *thread_pool, ngx_http_asana_hook_commits_t *commits);

/*
 * Opens the store at the start of a worker; NGX_ERROR, with a line in the log,
 * if it cannot be used now.  It is tried again in the thread.
 */
ngx_int_t ngx_http_asana_hook_store_open(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log);

/* Closes what is open, at the end of a worker. */
void ngx_http_asana_hook_store_close(ngx_http_asana_hook_store_t *store);

/* A number that every commit of any process changes; 0: not to be had. */
uint64_t ngx_http_asana_hook_store_txnid(ngx_http_asana_hook_store_t *store);

/*
 * Appends copies of the secrets of the key to the set and stamps it with the
 * transaction read.  NGX_OK, also if there are none; NGX_ERROR is logged.
 */
ngx_int_t ngx_http_asana_hook_store_find(ngx_http_asana_hook_store_t *store,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set, ngx_log_t *log);

/*
 * Calls pt for the keys behind "after", in their order, with all their
 * secrets, until it returns other than NGX_OK; all see one state of the
 * store.  Returns what pt did, NGX_OK at the end, NGX_ERROR is logged.  The
 * key lies in the store and the set is used again.
 */
typedef ngx_int_t (*ngx_http_asana_hook_list_pt)(void *data, ngx_str_t *key,
    ngx_http_asana_hook_set_t *set);

ngx_int_t ngx_http_asana_hook_store_list(ngx_http_asana_hook_store_t *store,
    ngx_str_t *after, ngx_http_asana_hook_set_t *set,
    ngx_http_asana_hook_list_pt pt, void *data, ngx_log_t *log);

/* Counts what is stored; NGX_ERROR is logged. */
ngx_int_t ngx_http_asana_hook_store_stat(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_stat_t *stat, ngx_log_t *log);

/*
 * Returns an operation for the key (at most MAX_KEY bytes) with room for
 * nseen notes, or NULL.  It belongs to the caller until it is posted with a
 * handler, and then to the handler; op_free() overwrites its secret.
 */
ngx_http_asana_hook_op_t *ngx_http_asana_hook_op_create(ngx_str_t *key,
    ngx_uint_t nseen, ngx_log_t *log);
void ngx_http_asana_hook_op_free(ngx_http_asana_hook_op_t *op);

/*
 * Carries out the operation as one durable transaction, in which the policy
 * is decided.  NGX_OK: done, op->rc is the outcome and the handler is not
 * called; NGX_AGAIN: under way, the handler will be called in this thread.
 *
 * Outcomes: NGX_OK done or held already, NGX_DECLINED refused by the policy
 * or not found, NGX_BUSY the store is full, NGX_ERROR; the last two are logged.
 * NGX_ABORT: a key, then in op->key, has no place for the secret to ACTIVATE.
 */
ngx_int_t ngx_http_asana_hook_store_post(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_op_t *op);


/*
 * group: gathers operations for a thread; knows nothing of what they do.
 */

typedef struct {
    void                          *data;

    /* in a thread; what it does not set to another keeps rc NGX_ERROR */
    void                         (*run)(void *data, ngx_queue_t *batch,
                                        ngx_log_t *log);

    /* in the main thread, after it; NGX_AGAIN: run the batch once more */
    ngx_int_t                    (*settle)(void *data);

    ngx_int_t                      ident;    /* must be after 3 pointers */

    ngx_queue_t                    waiting;
    ngx_queue_t                    batch;

#if (NGX_THREADS)
    ngx_thread_pool_t             *pool;
    ngx_thread_task_t              task;
    ngx_event_t                    hold;
#endif

    unsigned                       busy:1;   /* a batch is in its thread */
} ngx_http_asana_hook_group_t;

/* The caller sets data, run and settle. */
void ngx_http_asana_hook_group_init(ngx_http_asana_hook_group_t *group,
    ngx_thread_pool_t *pool);

/*
 * NGX_AGAIN: the handler of the operation will be called, in the main thread
 * and not before this returns; NGX_OK: there is no pool, and it is done.
 * NGX_BUSY: as many operations of this worker wait as may.
 */
ngx_int_t ngx_http_asana_hook_group_post(ngx_http_asana_hook_group_t *group,
    ngx_http_asana_hook_op_t *op);

/* Runs a batch without operations, unless another one is under way. */
void ngx_http_asana_hook_group_wake(ngx_http_asana_hook_group_t *group);


/*
 * batch: changes of the store, for the store and its group alone.
 */

/* In a thread, except for what store_begin() and store_open() say. */
void ngx_http_asana_hook_store_run(void *data, ngx_queue_t *batch,
    ngx_log_t *log);

/* In the main thread, after a batch; NGX_AGAIN: it is to be run again. */
ngx_int_t ngx_http_asana_hook_store_settle(void *data);

/* Ends the look-ups of the main thread, before an environment goes. */
void ngx_http_asana_hook_store_unread(ngx_http_asana_hook_store_t *store);

/*
 * Logs what LMDB or the system says, and the way out; each cause once a second
 * at most.  Returns NGX_ERROR.  In any thread.
 */
ngx_int_t ngx_http_asana_hook_store_error(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log, const char *what,
    int err);

/* Whether this cause was not logged yet in this second. */
ngx_uint_t ngx_http_asana_hook_store_tells(ngx_http_asana_hook_store_t *store,
    const char *what, int err);


/*
 * ops, records: the content of the store's transactions, for the store alone.
 * All return 0 or an error of LMDB or of the system.
 */

typedef struct {
    struct MDB_txn                *txn;
    int64_t                        keys;       /* added, or less than 0 */
    size_t                         taken;      /* pages of it, at most */
    unsigned int                   meta;       /* databases */
    unsigned int                   secrets;
    unsigned int                   unproven;
    unsigned int                   pending;
    unsigned int                   waiting;
} ngx_http_asana_hook_records_t;


typedef struct {
    struct MDB_env                *env;
    ngx_http_asana_hook_records_t  records;
    ngx_uint_t                     opened;     /* the databases are */
    ngx_uint_t                     readonly;   /* nor has it any locks */
    size_t                         used;       /* when it was resized */
    uint64_t                       version;    /* added to transactions */
    ngx_file_uniq_t                lock_uniq;  /* of lock.mdb */
    dev_t                          lock_dev;
} ngx_http_asana_hook_env_t;


struct ngx_http_asana_hook_store_s {
    ngx_http_asana_hook_env_t      cur;        /* of the main thread */
    struct MDB_txn                *read;       /* parked between look-ups */
    struct MDB_cursor             *cursor;     /* of "read" in "secrets" */

    ngx_http_asana_hook_group_t    group;

    ngx_http_asana_hook_commits_t *commits;

    size_t                         max_size;
    time_t                         tried;      /* to open */
    time_t                         failed;     /* to open or to write */
    ngx_str_t                      path;

    /* what a batch opened, to be "cur", and what is to be closed before it */
    ngx_http_asana_hook_env_t      fresh;
    ngx_http_asana_hook_env_t      old;
    ngx_uint_t                     reopen;     /* and not to be written */

    /* what the last batch tells to the main thread */
    int                            err;
    ngx_uint_t                     panic;
    ngx_uint_t                     made;
};


/*
 * env: in any thread that has the environment for itself.
 */

/* what a map has beyond "max_size", for changes that always fit, and back */

#define NGX_HTTP_ASANA_HOOK_MIN_RESERVE  ((size_t) 4 * 1024 * 1024)

#define ngx_http_asana_hook_env_reserve(size)                                 \
    ngx_max((size) / 8, NGX_HTTP_ASANA_HOOK_MIN_RESERVE)

#define ngx_http_asana_hook_env_limit(mapsize)                                \
    ngx_min((mapsize) - NGX_HTTP_ASANA_HOOK_MIN_RESERVE, (mapsize) / 9 * 8)

/* an error beside those of LMDB and of the system: not the same lock.mdb */
#define NGX_HTTP_ASANA_HOOK_ELOCK  (-1)

/*
 * Opens the environment and the databases that it has.  With a fallback one
 * that cannot be written is opened for reading.  NGX_ERROR is logged.
 */
ngx_int_t ngx_http_asana_hook_env_open(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_uint_t fallback, ngx_log_t *log);
void ngx_http_asana_hook_env_close(ngx_http_asana_hook_env_t *env);

/* Opens the databases that there are, or makes them with flags MDB_CREATE. */
ngx_int_t ngx_http_asana_hook_env_databases(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_env_t *env,
    unsigned int flags, ngx_log_t *log);

/*
 * Whether it has more than "max_size" since it was last resized: others may
 * have a larger one, which env_resize() takes over.  Nobody may use the map;
 * after an error, one of LMDB, it is gone.
 */
ngx_uint_t ngx_http_asana_hook_env_outgrown(ngx_http_asana_hook_env_t *env);
int ngx_http_asana_hook_env_resize(ngx_http_asana_hook_env_t *env);

/* Whether its files are those that have the names; NGX_ERROR is logged. */
ngx_int_t ngx_http_asana_hook_env_in_place(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_log_t *log);

/* Opens the databases, or makes them; NGX_DECLINED: there are none yet. */
ngx_int_t ngx_http_asana_hook_store_databases(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_env_t *env,
    struct MDB_txn *txn, unsigned int flags, ngx_log_t *log);


/* as it lies in the store, or is to be written there */

typedef struct {
    time_t                         created;
    time_t                         verified;
    u_char                        *id;
    u_char                        *secret;
    size_t                         len;
    ngx_uint_t                     pending;
} ngx_http_asana_hook_record_t;

/*
 * Carries out the operation within recs->txn, which is to be committed if
 * op->rc is NGX_OK.  If the store was full, room is made instead, "dropped"
 * is not 0, and the operation is to be tried again after the commit.
 */
int ngx_http_asana_hook_op_apply(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_op_t *op, ngx_uint_t *dropped);

/* most secrets past "pending" that a handshake drops on the way */
#define NGX_HTTP_ASANA_HOOK_EXPIRED  2

/* Brings times that are later than now back to it, of some of the latest. */
int ngx_http_asana_hook_op_correct(ngx_http_asana_hook_records_t *recs,
    struct MDB_cursor *cursor, unsigned int dbi, time_t now);

/* Removes a secret of the key; MDB_NOTFOUND if there is none such. */
int ngx_http_asana_hook_op_drop(ngx_http_asana_hook_records_t *recs,
    struct MDB_cursor *cursor, struct MDB_val *key, u_char *id);

/*
 * MDB_MAP_FULL if one more operation might leave no room for another; "drops"
 * is how many secrets one transaction may drop then.
 */
int ngx_http_asana_hook_op_full(ngx_http_asana_hook_records_t *recs,
    ngx_uint_t *drops);

/*
 * Drops what is worth least; MDB_MAP_FULL if there is nothing such.  "dropped"
 * is set to the number of secrets that went.
 */
int ngx_http_asana_hook_op_make_room(
    ngx_http_asana_hook_records_t *recs, struct MDB_cursor *cursor,
    ngx_http_asana_hook_op_t *op, ngx_uint_t drops, ngx_uint_t *dropped);

/* Drops the oldest of a database by age, as long as *dropped is below max. */
int ngx_http_asana_hook_op_drop_oldest(ngx_http_asana_hook_records_t *recs,
    struct MDB_cursor *cursor, unsigned int dbi, time_t before, ngx_uint_t max,
    ngx_uint_t *dropped);

/* Opens the databases, or makes them with flags MDB_CREATE. */
int ngx_http_asana_hook_records_open(ngx_http_asana_hook_records_t *recs,
    unsigned int flags);

/* Writes what has been counted; the last step of a transaction. */
int ngx_http_asana_hook_records_finish(ngx_http_asana_hook_records_t *recs);

/* Appends the secrets of the key to the set, none if there are none. */
int ngx_http_asana_hook_records_find(struct MDB_cursor *cursor,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set);

/* Moves on to the key behind "key"; MDB_NOTFOUND at the end. */
int ngx_http_asana_hook_records_next(struct MDB_cursor *cursor,
    ngx_str_t *key);

/*
 * Writes the next key, behind *key, under which the id is pending to
 * key->mv_data[MAX_KEY]; MDB_NOTFOUND if there is none.
 */
int ngx_http_asana_hook_records_waiting(ngx_http_asana_hook_records_t *recs,
    u_char *id, struct MDB_val *key);

/* Whether a secret that came since then has the id; MDB_NOTFOUND if not. */
int ngx_http_asana_hook_records_recent(ngx_http_asana_hook_records_t *recs,
    u_char *id, time_t since);

int ngx_http_asana_hook_records_stat(ngx_http_asana_hook_records_t *recs,
    ngx_http_asana_hook_stat_t *stat);

/* The record of the id, or the first one of the key. */
int ngx_http_asana_hook_record_get(struct MDB_cursor *cursor,
    struct MDB_val *key, u_char *id, ngx_http_asana_hook_record_t *rec);

int ngx_http_asana_hook_record_parse(struct MDB_val *val,
    ngx_http_asana_hook_record_t *rec);

/* Adds a record, no other of the key may have its id. */
int ngx_http_asana_hook_record_put(ngx_http_asana_hook_records_t *recs,
    struct MDB_val *key, ngx_http_asana_hook_record_t *rec);

/* Removes the record at the cursor. */
int ngx_http_asana_hook_record_del(ngx_http_asana_hook_records_t *recs,
    struct MDB_cursor *cursor, struct MDB_val *key,
    ngx_http_asana_hook_record_t *rec);

/* Removes what the indexes say of a record that is not there. */
int ngx_http_asana_hook_record_stale(ngx_http_asana_hook_records_t *recs,
    struct MDB_val *key, u_char *id, time_t created, ngx_uint_t pending);

/*
 * The oldest or the latest record of "unproven" or "waiting": its key is
 * written to buf[MAX_KEY], its id to id[ID_LEN].
 */
int ngx_http_asana_hook_record_by_age(ngx_http_asana_hook_records_t *recs,
    unsigned int dbi, ngx_uint_t latest, struct MDB_val *key, u_char *buf,
    u_char *id, time_t *created);


/*
 * module: configuration, read-only at request time
 */

typedef struct {
    ngx_array_t                    zones;    /* ngx_http_asana_hook_zone_t * */
    ngx_flag_t                     gateway;
} ngx_http_asana_hook_main_conf_t;


typedef struct {
    ngx_shm_zone_t                *shm_zone;
    ngx_shm_zone_t                *api;
    ngx_shm_zone_t                *gateway;
    ngx_http_complex_value_t      *enroll;
    ngx_uint_t                     status;
    ngx_uint_t                     log_level;
    ngx_uint_t                     heartbeat;
    ngx_flag_t                     ack;
    ngx_flag_t                     dry_run;
    ngx_uint_t                     api_write;
} ngx_http_asana_hook_loc_conf_t;


#define NGX_HTTP_ASANA_HOOK_HEARTBEAT_PASS    0
#define NGX_HTTP_ASANA_HOOK_HEARTBEAT_ANSWER  1


/* room for the usual one secret of a key in the request's context */
#define NGX_HTTP_ASANA_HOOK_SET_SIZE          192


typedef struct {
    ngx_http_request_t            *request;
    ngx_http_asana_hook_zone_t    *zone;
    ngx_http_asana_hook_op_t      *op;       /* under way */
    ngx_event_t                   *timer;    /* its deadline */
    void                          *create;   /* of the gateway */
    ngx_str_t                      key;
    uint32_t                       hash;
    ngx_http_asana_hook_status_e   status;
    ngx_http_asana_hook_policy_e   policy;   /* of the operation */
    ngx_int_t                      rc;       /* of the phase handler */
    ngx_str_t                      secret;   /* of a handshake */
    ngx_http_asana_hook_set_t      set;
    /* of the set: behind it, for it is aligned as secrets are */
    u_char                         buf[NGX_HTTP_ASANA_HOOK_SET_SIZE];
    unsigned                       handshake:1;
    unsigned                       dry_run:1;    /* should be rejected */
    unsigned                       identified:1;
    unsigned                       counted:1;
    u_char                         id[2 * NGX_HTTP_ASANA_HOOK_ID_LEN];
    u_char                         signature[NGX_HTTP_ASANA_HOOK_MAC_LEN];
} ngx_http_asana_hook_ctx_t;


typedef struct {
    ngx_uint_t                     secrets;
    ngx_uint_t                     signatures;
    ngx_str_t                      secret;
    ngx_str_t                      signature;
} ngx_http_asana_hook_headers_t;


/* An ngx_command_t handler. */
char *ngx_http_asana_hook_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);


/*
 * header
 */

/* in lower case */
extern ngx_str_t  ngx_http_asana_hook_secret_name;
extern ngx_str_t  ngx_http_asana_hook_signature_name;
extern ngx_str_t  ngx_http_asana_hook_status_name;

/* Finds and counts the headers of the protocol; repeated: the last value. */
void ngx_http_asana_hook_headers(ngx_http_request_t *r,
    ngx_http_asana_hook_headers_t *h);

/*
 * Takes a header out of the request, each time that it occurs, also with
 * other characters for "-".  Other requests that share the list keep theirs.
 * NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_asana_hook_header_hide(ngx_http_request_t *r,
    ngx_str_t *name);

/*
 * Makes the value the only X-Asana-Hook-Status of the request; it must live
 * as long.  NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_asana_hook_header_set(ngx_http_request_t *r,
    ngx_str_t *value);


/*
 * handler
 */

/* The handler of the POST_READ phase. */
ngx_int_t ngx_http_asana_hook_post_read_handler(ngx_http_request_t *r);

/* The handler of the PRECONTENT phase. */
ngx_int_t ngx_http_asana_hook_handler(ngx_http_request_t *r);

/*
 * Evaluates the key of the request and its hash; NGX_DECLINED if it is no
 * good, NGX_ERROR if there is no memory.
 */
#define NGX_HTTP_ASANA_HOOK_BAD_KEY                                           \
    "its key is empty, longer than 480 bytes or has a control character"

ngx_int_t ngx_http_asana_hook_key(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);

/*
 * Logs why the request is rejected, and sets the word; returns what the
 * phase handler is to return.
 */
ngx_int_t ngx_http_asana_hook_reject(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_status_e status,
    const char *reason);

/* The status word, with its suffix in a dry run; empty if there is none. */
void ngx_http_asana_hook_word(ngx_http_asana_hook_ctx_t *ctx,
    ngx_str_t *word);

/* Counts the word that was decided; once for each request and zone. */
void ngx_http_asana_hook_count(ngx_http_asana_hook_ctx_t *ctx);

/* A content handler: an empty 200, with the secret for a handshake. */
ngx_int_t ngx_http_asana_hook_answer(ngx_http_request_t *r);

/* Adds a response header; NGX_ERROR if there is no memory. */
ngx_int_t ngx_http_asana_hook_add_header(ngx_http_request_t *r,
    const char *name, ngx_str_t *value);

/* Names the secret in $asana_hook_secret_id. */
void ngx_http_asana_hook_identify(ngx_http_asana_hook_ctx_t *ctx, u_char *id);


/*
 * delivery
 */

/* Decides on a delivery; NGX_DONE: later, by itself. */
ngx_int_t ngx_http_asana_hook_delivery(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h);

/* Lets a verified delivery pass, or answers it if it is a heartbeat. */
ngx_int_t ngx_http_asana_hook_pass(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);


/*
 * handshake
 */

/* Decides on a POST with X-Hook-Secret; NGX_DONE: later, by itself. */
ngx_int_t ngx_http_asana_hook_handshake(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h);

/* Whether it is 16 to 255 visible ASCII characters. */
ngx_uint_t ngx_http_asana_hook_secret_valid(ngx_str_t *secret);

/* Reads a value of asana_hook_enroll; NGX_DECLINED if there is none such. */
ngx_int_t ngx_http_asana_hook_policy(ngx_str_t *value,
    ngx_http_asana_hook_policy_e *policy);

/* The context of the request, also after an internal redirect, or NULL. */
ngx_http_asana_hook_ctx_t *ngx_http_asana_hook_get_ctx(ngx_http_request_t *r);

/*
 * Whether the request is a delivery whose signature was verified and whose
 * location has "asana_hook_ack on".
 */
ngx_uint_t ngx_http_asana_hook_acked(ngx_http_request_t *r);


/*
 * ack
 */

/* Puts the header filter of asana_hook_ack into nginx's chain. */
void ngx_http_asana_hook_ack_init(void);


/*
 * register, json
 */

/* Puts the filters of asana_hook_register into nginx's chains. */
void ngx_http_asana_hook_register_init(void);

/*
 * Notes that the request is a create call; NGX_DECLINED: it goes on, all else
 * is the status of a call that is refused.
 */
ngx_int_t ngx_http_asana_hook_register(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);

/*
 * Looks for a member of a JSON object (RFC 8259) that is a string; its text
 * is written to value->data, which has value->len bytes.  NGX_DECLINED if
 * there is no such member, NGX_ERROR if the text is no such object, has the
 * member twice, or a longer text in it.
 */
ngx_int_t ngx_http_asana_hook_json_member(u_char *p, size_t size,
    ngx_str_t *name, ngx_str_t *value);


/*
 * site
 */

/*
 * Whether the request is a write that a browser sends from another site, or
 * from where cannot be understood.
 */
ngx_uint_t ngx_http_asana_hook_foreign(ngx_http_request_t *r);


/*
 * api, metrics
 */

/* The content handler of asana_hook_api. */
ngx_int_t ngx_http_asana_hook_api_handler(ngx_http_request_t *r);

typedef enum {
    NGX_HTTP_ASANA_HOOK_ARG_KEY = 0,
    NGX_HTTP_ASANA_HOOK_ARG_ID,
    NGX_HTTP_ASANA_HOOK_ARG_AFTER,
    NGX_HTTP_ASANA_HOOK_ARG_LIMIT,
    NGX_HTTP_ASANA_HOOK_ARGS
} ngx_http_asana_hook_arg_e;


typedef struct {
    ngx_str_t                       value[NGX_HTTP_ASANA_HOOK_ARGS];
    ngx_uint_t                      given;      /* a bit for each */
    ngx_int_t                       limit;
    ngx_uint_t                      status;     /* of an error */
    u_char                          id[NGX_HTTP_ASANA_HOOK_ID_LEN];
} ngx_http_asana_hook_args_t;


/* Reads the arguments; returns what is wrong with them, or NULL. */
const char *ngx_http_asana_hook_api_args(ngx_http_request_t *r,
    ngx_uint_t allowed, ngx_http_asana_hook_args_t *args);


/* text that grows; "failed" is set when there is no memory for more of it */

typedef struct {
    ngx_pool_t                    *pool;
    ngx_chain_t                   *head;
    ngx_chain_t                   *last;
    size_t                         size;     /* of all text */
    ngx_uint_t                     failed;
} ngx_http_asana_hook_out_t;

/* Appends text formatted as by ngx_sprintf(), at most 1024 bytes. */
void ngx_http_asana_hook_out(ngx_http_asana_hook_out_t *out, const char *fmt,
    ...);

/* a row of counters, of each word one, and the words that occur in it */

typedef enum {
    NGX_HTTP_ASANA_HOOK_HANDSHAKES = 0,
    NGX_HTTP_ASANA_HOOK_DELIVERIES,
    NGX_HTTP_ASANA_HOOK_DRY_RUNS,
    NGX_HTTP_ASANA_HOOK_CREATED
} ngx_http_asana_hook_row_e;

typedef struct {
    size_t                         offset;   /* in the counters */
    ngx_uint_t                     words;    /* a bit for each */
    ngx_uint_t                     dry_run;  /* they have the suffix */
} ngx_http_asana_hook_row_t;

extern ngx_http_asana_hook_row_t  ngx_http_asana_hook_rows[];

#define ngx_http_asana_hook_row(counters, row)                                \
    ((ngx_atomic_t *) ((u_char *) (counters) + (row)->offset))

/* Appends a word in lower case; what a dry run counts has its suffix. */
void ngx_http_asana_hook_out_word(ngx_http_asana_hook_out_t *out,
    ngx_uint_t word, ngx_uint_t dry_run);

/* Appends the counters of the zone, two members of an object. */
void ngx_http_asana_hook_out_counters(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_counters_t *counters);

/* Appends the object of a key and its secrets. */
void ngx_http_asana_hook_out_hook(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *key,
    ngx_http_asana_hook_set_t *set);

/*
 * Appends the content of a JSON string: U+FFFD for what is not UTF-8, \uXXXX
 * for what controls a terminal or turns text around.
 */
void ngx_http_asana_hook_out_json(ngx_http_asana_hook_out_t *out,
    ngx_str_t *text);

/* Appends the text percent-encoded (RFC 3986). */
void ngx_http_asana_hook_out_escaped(ngx_http_asana_hook_out_t *out,
    ngx_str_t *text);

/*
 * Appends all metrics of the zone, Prometheus text format 0.0.4; without
 * what is stored if stat is NULL.
 */
void ngx_http_asana_hook_metrics(ngx_http_asana_hook_out_t *out,
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_stat_t *stat);


extern ngx_module_t  ngx_http_asana_hook_module;


#endif /* _NGX_HTTP_ASANA_HOOK_H_INCLUDED_ */
