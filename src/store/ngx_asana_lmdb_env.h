
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_ENV_H_INCLUDED_
#define _NGX_ASANA_LMDB_ENV_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_lmdb_records.h"


/* an environment: the files of a store, opened by this process */

typedef struct {
    ngx_asana_backend_conf_t    *conf;
    size_t                     map_size;    /* bytes */
    size_t                     max_pages;   /* of what is added */
    time_t                     failed;      /* to open */
    time_t                     checked;     /* for readers that died */
    ngx_atomic_t               said[16];    /* causes of the last messages */

    /* while it is open */

    MDB_env                   *env;
    ngx_fd_t                   lock_fd;
    ngx_file_info_t            data_fi;
    ngx_file_info_t            lock_fi;
    ngx_uint_t                 read_only;
    uint64_t                   salt;        /* of versions, never 0 */
    ngx_uint_t                 alone;       /* a batch goes on one by one */

    /*
     * The databases as the thread has opened them.  "made" is their format,
     * set after them, for the main thread.
     */

    ngx_asana_lmdb_dbs_t       dbs;
    ngx_atomic_t               made;
} ngx_asana_lmdb_env_t;


/*
 * Opens it with its databases, for reading alone if it cannot be written.  A
 * failure is logged, and leaves it closed.  No transaction may be under way.
 */
ngx_int_t ngx_asana_lmdb_env_open(ngx_asana_lmdb_env_t *e, ngx_log_t *log);
void ngx_asana_lmdb_env_close(ngx_asana_lmdb_env_t *e);

/* What one that is open for reading alone could not be written for; or 0. */
int ngx_asana_lmdb_env_writable(ngx_asana_lmdb_env_t *e);

/*
 * To be called before each write: NGX_ERROR, which is logged, if the files
 * were removed or replaced, or others write to them by another lock.
 */
ngx_int_t ngx_asana_lmdb_env_in_place(ngx_asana_lmdb_env_t *e,
    ngx_log_t *log);

/* Logs an error of LMDB or the system, with a way out; returns NGX_ERROR. */
ngx_int_t ngx_asana_lmdb_env_error(ngx_asana_lmdb_env_t *e, ngx_log_t *log,
    const char *what, int err);

/* Logs that a key, or what is kept for it, is damaged. */
void ngx_asana_lmdb_env_damaged(ngx_asana_lmdb_env_t *e, ngx_log_t *log,
    MDB_val *key);


#endif /* _NGX_ASANA_LMDB_ENV_H_INCLUDED_ */
