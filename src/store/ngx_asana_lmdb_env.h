
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_ENV_H_INCLUDED_
#define _NGX_ASANA_LMDB_ENV_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_lmdb_error.h"
#include "ngx_asana_lmdb_records.h"

#include <pthread.h>


/* what is left to the main thread after a change */

typedef enum {
    NGX_ASANA_LMDB_REST = 0,
    NGX_ASANA_LMDB_GROW,         /* the map */
    NGX_ASANA_LMDB_RESIZE,       /* the map, as another process did */
    NGX_ASANA_LMDB_REOPEN        /* let go, and change again */
} ngx_asana_lmdb_next_e;


/* an environment: the files of a store, opened by this process */

typedef struct {
    ngx_asana_backend_conf_t    *conf;
    size_t                     map_size;    /* bytes */
    size_t                     max_pages;   /* of what is added */
    time_t                     failed;      /* to open */
    time_t                     checked;     /* for readers that died */
    ngx_atomic_t               failing;     /* the last change failed */
    ngx_asana_lmdb_errors_t    errors;

    /* held by the thread during a change: the main thread only tries */
    pthread_mutex_t            mutex;

    /* while it is open */

    MDB_env                   *env;
    ngx_fd_t                   lock_fd;
    ngx_file_info_t            data_fi;
    ngx_file_info_t            lock_fi;
    ngx_uint_t                 read_only;
    uint64_t                   salt;        /* of versions, never 0 */
    ngx_uint_t                 closed;      /* nothing is added */
    ngx_asana_lmdb_dbs_t       dbs;         /* of the thread, until "adopt" */

    /* of the main thread */

    ngx_atomic_t               taken;       /* it may be read */
    ngx_asana_lmdb_records_t   read;        /* read.txn: the parked read */

    /* of the thread, until "adopt" */

    ngx_asana_lmdb_next_e      next;
    uint64_t                   version;     /* of a commit of known keys */
    ngx_uint_t                 opened;
    ngx_uint_t                 given_up;    /* the batch is to fail */
    time_t                     tried;       /* to write again */
    MDB_val                    resealed;    /* the last key, or none */
    u_char                     buf[NGX_ASANA_MAX_KEY];
} ngx_asana_lmdb_env_t;


/*
 * Opens it with its databases, for reading alone if it cannot be written.  A
 * failure is logged, and leaves it closed.  No transaction may be under way.
 */
ngx_int_t ngx_asana_lmdb_env_open(ngx_asana_lmdb_env_t *e, ngx_log_t *log);
void ngx_asana_lmdb_env_close(ngx_asana_lmdb_env_t *e);

/* Logs why records_get() returned err for the key: DECLINED or ABORT. */
void ngx_asana_lmdb_env_damaged(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, MDB_val *key, int err, ngx_log_t *log);

/* What one that is open for reading alone could not be written for; or 0. */
int ngx_asana_lmdb_env_writable(ngx_asana_lmdb_env_t *e);

/*
 * To be called before each write: NGX_ERROR, which is logged, if the files
 * were removed or replaced, or others write to them by another lock.
 */
ngx_int_t ngx_asana_lmdb_env_in_place(ngx_asana_lmdb_env_t *e,
    ngx_log_t *log);


#endif /* _NGX_ASANA_LMDB_ENV_H_INCLUDED_ */
