
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The store is an LMDB environment of these named databases; all integers
 * are unsigned, big-endian:
 *
 *     meta      "version" -> 4 bytes, the version of this format
 *
 *     secrets   key of the zone -> a record for each secret (dupsort):
 *
 *                   8  id, SHA-256(secret) cut
 *                   8  created, seconds of the epoch
 *                   8  last verified a delivery, 0 if never
 *                   1  state, 0
 *                   1  length of the secret
 *                   n  the secret
 *
 *     unproven  created (8), id (8), key -> nothing
 *               the secrets that never verified a delivery, by age
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


#define NGX_HTTP_ASANA_HOOK_FORMAT      1

/* the first opener fixes it: two generations of workers, and the tools */
#define NGX_HTTP_ASANA_HOOK_READERS     2048

/* seconds between two attempts to open a store that failed */
#define NGX_HTTP_ASANA_HOOK_RETRY       1

#define NGX_HTTP_ASANA_HOOK_RECORD      26
#define NGX_HTTP_ASANA_HOOK_UNPROVEN    16

/* pages that a transaction on a full store may take for itself */
#define NGX_HTTP_ASANA_HOOK_RESERVE     32

/* most secrets that a full store drops at once */
#define NGX_HTTP_ASANA_HOOK_DROPS       64


struct ngx_http_asana_hook_store_s {
    MDB_env                       *env;
    MDB_txn                       *read;       /* parked between look-ups */
    MDB_cursor                    *cursor;     /* of "read" in "secrets" */

    MDB_dbi                        meta;
    MDB_dbi                        secrets;
    MDB_dbi                        unproven;

    size_t                         max_size;
    time_t                         tried;
    ngx_str_t                      path;

    unsigned                       opened:1;   /* the databases are */
};


typedef struct {
    time_t                         created;
    time_t                         verified;
    u_char                        *id;
    u_char                        *secret;
    size_t                         len;
} ngx_http_asana_hook_record_t;


static ngx_int_t ngx_http_asana_hook_store_open_env(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log);
static ngx_int_t ngx_http_asana_hook_store_check_env(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log);
static void ngx_http_asana_hook_store_close_env(
    ngx_http_asana_hook_store_t *store);
static ngx_int_t ngx_http_asana_hook_store_databases(
    ngx_http_asana_hook_store_t *store, MDB_txn *txn, unsigned int flags,
    ngx_log_t *log);
static int ngx_http_asana_hook_store_version(
    ngx_http_asana_hook_store_t *store, MDB_txn *txn, unsigned int flags,
    ngx_log_t *log);
static ngx_int_t ngx_http_asana_hook_store_read(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log);
static ngx_int_t ngx_http_asana_hook_store_error(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log, const char *what,
    int err);
static ngx_int_t ngx_http_asana_hook_store_in_place(
    ngx_http_asana_hook_store_t *store, ngx_log_t *log);
static ngx_int_t ngx_http_asana_hook_store_write(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_store_apply(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_store_enroll(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_store_decide(MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, u_char *oldest, ngx_uint_t *drop);
static int ngx_http_asana_hook_store_touch(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_store_full(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn);
static int ngx_http_asana_hook_store_make_room(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_op_t *op);
static int ngx_http_asana_hook_store_drop(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, MDB_val *unproven);
static int ngx_http_asana_hook_store_put(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, MDB_val *key, ngx_http_asana_hook_record_t *rec);
static int ngx_http_asana_hook_store_remove(ngx_http_asana_hook_store_t *store,
    MDB_cursor *cursor, MDB_val *key, u_char *id);
static int ngx_http_asana_hook_record_get(MDB_cursor *cursor, MDB_val *key,
    u_char *id, ngx_http_asana_hook_record_t *rec);
static int ngx_http_asana_hook_record_parse(MDB_val *val,
    ngx_http_asana_hook_record_t *rec);
static size_t ngx_http_asana_hook_unproven(u_char *buf, MDB_val *key,
    ngx_http_asana_hook_record_t *rec);
static u_char *ngx_http_asana_hook_put64(u_char *p, uint64_t n);
static uint64_t ngx_http_asana_hook_get64(u_char *p);


ngx_http_asana_hook_store_t *
ngx_http_asana_hook_store_create(ngx_str_t *path, size_t max_size,
    ngx_log_t *log)
{
    ngx_http_asana_hook_store_t  *store;

    store = ngx_calloc(sizeof(ngx_http_asana_hook_store_t) + path->len + 1,
                       log);
    if (store == NULL) {
        return NULL;
    }

    store->max_size = max_size;

    store->path.len = path->len;
    store->path.data = (u_char *) store + sizeof(ngx_http_asana_hook_store_t);
    ngx_memcpy(store->path.data, path->data, path->len);

    return store;
}


ngx_int_t
ngx_http_asana_hook_store_open(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    if (store->env) {
        return NGX_OK;
    }

    if (store->tried
        && ngx_time() - store->tried < NGX_HTTP_ASANA_HOOK_RETRY)
    {
        return NGX_ERROR;
    }

    store->tried = ngx_time();

    if (ngx_http_asana_hook_store_open_env(store, log) != NGX_OK) {
        ngx_http_asana_hook_store_close_env(store);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_store_open_env(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    int  dead, err;

    err = mdb_env_create(&store->env);

    if (err == 0) {
        err = mdb_env_set_mapsize(store->env, store->max_size);
    }

    if (err == 0) {
        err = mdb_env_set_maxdbs(store->env, 8);
    }

    if (err == 0) {
        err = mdb_env_set_maxreaders(store->env, NGX_HTTP_ASANA_HOOK_READERS);
    }

    if (err == 0) {
        err = mdb_env_open(store->env, (char *) store->path.data,
                           MDB_NOTLS|MDB_NORDAHEAD, 0600);
    }

    if (err) {
        return ngx_http_asana_hook_store_error(store, log, "cannot be opened",
                                               err);
    }

    /* readers that died with their process would hold on to old pages */

    (void) mdb_reader_check(store->env, &dead);

    return ngx_http_asana_hook_store_check_env(store, log);
}


static ngx_int_t
ngx_http_asana_hook_store_check_env(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    int              fd;
    off_t            size;
    MDB_stat         stat;
    MDB_envinfo      info;
    ngx_file_info_t  fi;

    /* a file that was cut short would kill the worker at a look-up */

    if (mdb_env_get_fd(store->env, &fd) != 0
        || ngx_fd_info(fd, &fi) == NGX_FILE_ERROR
        || mdb_env_stat(store->env, &stat) != 0
        || mdb_env_info(store->env, &info) != 0)
    {
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               ngx_errno);
    }

    size = (off_t) (info.me_last_pgno + 1) * stat.ms_psize;

    if (ngx_file_size(&fi) < size) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: store \"%V\": \"data.mdb\" has %O bytes "
                      "instead of at least %O and is not used; restore it "
                      "from a backup", &store->path, ngx_file_size(&fi), size);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_asana_hook_store_close_env(ngx_http_asana_hook_store_t *store)
{
    if (store->cursor) {
        mdb_cursor_close(store->cursor);
        store->cursor = NULL;
    }

    if (store->read) {
        mdb_txn_abort(store->read);
        store->read = NULL;
    }

    if (store->env) {
        mdb_env_close(store->env);
        store->env = NULL;
    }

    store->opened = 0;
}


void
ngx_http_asana_hook_store_close(ngx_http_asana_hook_store_t *store)
{
    ngx_http_asana_hook_store_close_env(store);

    ngx_free(store);
}


static ngx_int_t
ngx_http_asana_hook_store_error(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log, const char *what, int err)
{
    const char  *help;

    switch (err) {

    case NGX_EACCES:
    case NGX_EPERM:
        help = "; chown the directory and its files to the user of the "
               "workers";
        break;

    case NGX_ENOENT:
        help = "; restore the directory, or reload nginx to make it anew";
        break;

    case NGX_ENOSPC:
        help = "; make room on the disk";
        break;

    case EROFS:
        help = "; mount the file system for writing";
        break;

    case MDB_MAP_FULL:
        help = "; raise \"max_size\" of the zone";
        break;

    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
        help = "; it is left as it is, restore it from a backup";
        break;

    default:
        help = "";
    }

    ngx_log_error(NGX_LOG_CRIT, log, 0, "asana_hook: store \"%V\" %s: %s%s",
                  &store->path, what, mdb_strerror(err), help);

    return NGX_ERROR;
}


/* databases are opened for reading, and made by the first write */

static ngx_int_t
ngx_http_asana_hook_store_databases(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, unsigned int flags, ngx_log_t *log)
{
    int  err;

    err = ngx_http_asana_hook_store_version(store, txn, flags, log);

    if (err == 0) {
        err = mdb_dbi_open(txn, "secrets", flags|MDB_DUPSORT, &store->secrets);
    }

    if (err == 0) {
        err = mdb_dbi_open(txn, "unproven", flags, &store->unproven);
    }

    if (err == MDB_NOTFOUND && flags == 0) {
        return NGX_DECLINED;
    }

    if (err) {
        return (err == NGX_ERROR) ? NGX_ERROR
               : ngx_http_asana_hook_store_error(store, log, "cannot be used",
                                                 err);
    }

    return NGX_OK;
}


static int
ngx_http_asana_hook_store_version(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, unsigned int flags, ngx_log_t *log)
{
    int      err;
    u_char   buf[4], *p;
    MDB_val  key, val;
    uint32_t version;

    err = mdb_dbi_open(txn, "meta", flags, &store->meta);
    if (err) {
        return err;
    }

    key.mv_size = sizeof("version") - 1;
    key.mv_data = (char *) "version";

    err = mdb_get(txn, store->meta, &key, &val);

    if (err == MDB_NOTFOUND && flags) {

        ngx_memzero(buf, 3);
        buf[3] = NGX_HTTP_ASANA_HOOK_FORMAT;

        val.mv_size = 4;
        val.mv_data = buf;

        return mdb_put(txn, store->meta, &key, &val, 0);
    }

    if (err) {
        return err;
    }

    if (val.mv_size != 4) {
        return MDB_CORRUPTED;
    }

    p = val.mv_data;
    version = (uint32_t) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];

    if (version > NGX_HTTP_ASANA_HOOK_FORMAT) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: store \"%V\" has the format %uD of a newer "
                      "version, this one knows %d; upgrade the module",
                      &store->path, version, NGX_HTTP_ASANA_HOOK_FORMAT);
        return NGX_ERROR;
    }

    return 0;
}


uint64_t
ngx_http_asana_hook_store_txnid(ngx_http_asana_hook_store_t *store)
{
    MDB_envinfo  info;

    if (store->env == NULL || mdb_env_info(store->env, &info) != 0) {
        return 0;
    }

    return info.me_last_txnid;
}


/* renews the parked read, NGX_DECLINED if the store is still empty */

static ngx_int_t
ngx_http_asana_hook_store_read(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    int        err;
    MDB_txn   *txn;
    ngx_int_t  rc;

    if (ngx_http_asana_hook_store_open(store, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (store->read) {
        err = mdb_txn_renew(store->read);

        if (err == MDB_MAP_RESIZED) {
            err = mdb_env_set_mapsize(store->env, 0);

            if (err == 0) {
                err = mdb_txn_renew(store->read);
            }
        }

    } else {
        err = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->read);

        if (err == MDB_MAP_RESIZED) {
            err = mdb_env_set_mapsize(store->env, 0);

            if (err == 0) {
                err = mdb_txn_begin(store->env, NULL, MDB_RDONLY,
                                    &store->read);
            }
        }
    }

    if (err) {
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    if (!store->opened) {

        rc = ngx_http_asana_hook_store_databases(store, store->read, 0, log);

        if (rc != NGX_OK) {
            mdb_txn_reset(store->read);
            return rc;
        }

        /* the handles outlive a read only if it is committed */

        txn = store->read;
        store->read = NULL;

        err = mdb_txn_commit(txn);

        if (err == 0) {
            err = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->read);
        }

        if (err) {
            return ngx_http_asana_hook_store_error(store, log,
                                                   "cannot be read", err);
        }

        store->opened = 1;
    }

    err = store->cursor
          ? mdb_cursor_renew(store->read, store->cursor)
          : mdb_cursor_open(store->read, store->secrets, &store->cursor);

    if (err) {
        mdb_txn_reset(store->read);
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_hook_store_find(ngx_http_asana_hook_store_t *store,
    ngx_str_t *key, ngx_http_asana_hook_set_t *set, ngx_log_t *log)
{
    int                            err;
    MDB_val                        k, val;
    ngx_int_t                      rc;
    ngx_http_asana_hook_record_t   rec;
    ngx_http_asana_hook_secret_t  *s;

    rc = ngx_http_asana_hook_store_read(store, log);

    if (rc != NGX_OK) {
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    set->txnid = mdb_txn_id(store->read);

    k.mv_size = key->len;
    k.mv_data = key->data;

    for (err = mdb_cursor_get(store->cursor, &k, &val, MDB_SET);
         err == 0;
         err = mdb_cursor_get(store->cursor, &k, &val, MDB_NEXT_DUP))
    {
        err = ngx_http_asana_hook_record_parse(&val, &rec);
        if (err) {
            break;
        }

        s = ngx_http_asana_hook_set_push(set, rec.len);
        if (s == NULL) {
            err = NGX_ENOMEM;
            break;
        }

        s->created = rec.created;
        s->verified = rec.verified;
        s->stored = rec.verified;
        ngx_memcpy(s->id, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        ngx_memcpy(s->data, rec.secret, rec.len);
    }

    mdb_txn_reset(store->read);

    if (err != MDB_NOTFOUND) {
        ngx_http_asana_hook_set_wipe(set);
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               err);
    }

    return NGX_OK;
}


ngx_http_asana_hook_op_t *
ngx_http_asana_hook_op_create(ngx_str_t *key, ngx_uint_t nseen,
    ngx_log_t *log)
{
    size_t                     size;
    ngx_http_asana_hook_op_t  *op;

    size = ngx_align(sizeof(ngx_http_asana_hook_op_t), NGX_ALIGNMENT)
           + nseen * sizeof(ngx_http_asana_hook_seen_t);

    op = ngx_calloc(size, log);
    if (op == NULL) {
        return NULL;
    }

    op->log = log;
    op->size = size;
    op->seen = (ngx_http_asana_hook_seen_t *)
                   ((u_char *) op + ngx_align(sizeof(ngx_http_asana_hook_op_t),
                                              NGX_ALIGNMENT));

    op->key_len = key->len;
    ngx_memcpy(op->key, key->data, key->len);

    return op;
}


void
ngx_http_asana_hook_op_free(ngx_http_asana_hook_op_t *op)
{
    ngx_explicit_memzero(op, op->size);
    ngx_free(op);
}


ngx_int_t
ngx_http_asana_hook_store_post(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_op_t *op)
{
    op->rc = ngx_http_asana_hook_store_write(store, op);

    return NGX_OK;
}


/*
 * A directory that was removed or replaced while it is in use would swallow
 * secrets: LMDB goes on writing to the file that has no name any more.
 */

static ngx_int_t
ngx_http_asana_hook_store_in_place(ngx_http_asana_hook_store_t *store,
    ngx_log_t *log)
{
    int              fd;
    u_char           name[NGX_MAX_PATH];
    ngx_file_info_t  fi, open;

    (void) ngx_snprintf(name, NGX_MAX_PATH, "%V/data.mdb%Z", &store->path);
    name[NGX_MAX_PATH - 1] = '\0';

    if (mdb_env_get_fd(store->env, &fd) != 0
        || ngx_fd_info(fd, &open) == NGX_FILE_ERROR)
    {
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               ngx_errno);
    }

    if (ngx_file_info(name, &fi) == NGX_FILE_ERROR
        || ngx_file_uniq(&fi) != ngx_file_uniq(&open)
        || fi.st_dev != open.st_dev)
    {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: store \"%V\" was removed or replaced while "
                      "in use; put it back, or restart nginx to use what is "
                      "there now", &store->path);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_store_write(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_op_t *op)
{
    int         err;
    MDB_txn    *txn;
    ngx_int_t   rc;
    ngx_uint_t  room;

    if (ngx_http_asana_hook_store_open(store, op->log) != NGX_OK
        || ngx_http_asana_hook_store_in_place(store, op->log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (room = 0; /* void */ ; room = 1) {

        err = mdb_txn_begin(store->env, NULL, 0, &txn);

        if (err == MDB_MAP_RESIZED) {
            err = mdb_env_set_mapsize(store->env, 0);

            if (err == 0) {
                err = mdb_txn_begin(store->env, NULL, 0, &txn);
            }
        }

        if (err) {
            break;
        }

        if (!store->opened) {
            rc = ngx_http_asana_hook_store_databases(store, txn, MDB_CREATE,
                                                     op->log);
            if (rc != NGX_OK) {
                mdb_txn_abort(txn);
                return NGX_ERROR;
            }
        }

        err = ngx_http_asana_hook_store_apply(store, txn, op);

        if (err == 0 && op->rc == NGX_OK) {
            err = mdb_txn_commit(txn);

            if (err == 0) {
                store->opened = 1;
            }

        } else {
            mdb_txn_abort(txn);

            if (err == MDB_KEYEXIST) {
                err = 0;
            }
        }

        if (err != MDB_MAP_FULL || room
            || ngx_http_asana_hook_store_make_room(store, op) != 0)
        {
            break;
        }
    }

    if (err == 0) {
        return op->rc;
    }

    (void) ngx_http_asana_hook_store_error(store, op->log,
                                           "cannot be written", err);

    return (err == MDB_MAP_FULL) ? NGX_BUSY : NGX_ERROR;
}


static int
ngx_http_asana_hook_store_apply(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_http_asana_hook_op_t *op)
{
    int  err;

    switch (op->type) {

    case NGX_HTTP_ASANA_HOOK_ENROLL:

        err = ngx_http_asana_hook_store_full(store, txn);
        if (err) {
            return err;
        }

        return ngx_http_asana_hook_store_enroll(store, txn, op);

    default: /* NGX_HTTP_ASANA_HOOK_TOUCH */
        return ngx_http_asana_hook_store_touch(store, txn, op);
    }
}


static int
ngx_http_asana_hook_store_enroll(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_http_asana_hook_op_t *op)
{
    int                           err;
    u_char                        oldest[NGX_HTTP_ASANA_HOOK_ID_LEN];
    MDB_val                       key;
    MDB_cursor                   *cursor;
    ngx_uint_t                    drop;
    ngx_http_asana_hook_record_t  rec;

    err = mdb_cursor_open(txn, store->secrets, &cursor);
    if (err) {
        return err;
    }

    key.mv_size = op->key_len;
    key.mv_data = op->key;

    err = ngx_http_asana_hook_store_decide(cursor, &key, op, oldest, &drop);

    if (err == 0 && op->rc == NGX_OK && drop) {
        err = ngx_http_asana_hook_store_remove(store, cursor, &key,
                  op->policy == NGX_HTTP_ASANA_HOOK_FIRST ? NULL : oldest);
    }

    mdb_cursor_close(cursor);

    if (err == MDB_KEYEXIST) {
        op->rc = NGX_OK;
        return MDB_KEYEXIST;
    }

    if (err || op->rc != NGX_OK) {
        return err;
    }

    rec.created = op->now;
    rec.verified = 0;
    rec.id = op->id;
    rec.secret = op->secret;
    rec.len = op->secret_len;

    return ngx_http_asana_hook_store_put(store, txn, &key, &rec);
}


/*
 * Sets op->rc; "drop" asks for the removal of what the new secret replaces,
 * "oldest" names it.  MDB_KEYEXIST if that very secret is held already.
 */

static int
ngx_http_asana_hook_store_decide(MDB_cursor *cursor, MDB_val *key,
    ngx_http_asana_hook_op_t *op, u_char *oldest, ngx_uint_t *drop)
{
    int                           err;
    time_t                        min, seen;
    MDB_val                       k, val;
    ngx_uint_t                    i, n, active;
    ngx_http_asana_hook_record_t  rec;

    n = 0;
    min = 0;
    active = 0;
    k = *key;

    for (err = mdb_cursor_get(cursor, &k, &val, MDB_SET);
         err == 0;
         err = mdb_cursor_get(cursor, &k, &val, MDB_NEXT_DUP))
    {
        err = ngx_http_asana_hook_record_parse(&val, &rec);
        if (err) {
            return err;
        }

        if (rec.len == op->secret_len
            && ngx_memcmp(rec.secret, op->secret, rec.len) == 0)
        {
            return MDB_KEYEXIST;
        }

        n++;
        seen = ngx_max(rec.created, rec.verified);

        for (i = 0; i < op->nseen; i++) {
            if (ngx_memcmp(op->seen[i].id, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN)
                == 0)
            {
                seen = ngx_max(seen, op->seen[i].verified);
                break;
            }
        }

        if (op->now - seen < op->inactive) {
            active++;
            continue;
        }

        if (n - active == 1 || seen < min) {
            min = seen;
            ngx_memcpy(oldest, rec.id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        }
    }

    if (err != MDB_NOTFOUND) {
        return err;
    }

    switch (op->policy) {

    case NGX_HTTP_ASANA_HOOK_FIRST:
        *drop = n;
        op->rc = active ? NGX_DECLINED : NGX_OK;
        break;

    case NGX_HTTP_ASANA_HOOK_OPEN:
        *drop = (n >= op->max_secrets);
        op->rc = (*drop && active == n) ? NGX_DECLINED : NGX_OK;
        break;

    default: /* NGX_HTTP_ASANA_HOOK_OFF */
        *drop = 0;
        op->rc = NGX_DECLINED;
    }

    return 0;
}


static int
ngx_http_asana_hook_store_touch(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, ngx_http_asana_hook_op_t *op)
{
    int                           err;
    u_char                        secret[NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    MDB_val                       key;
    MDB_cursor                   *cursor;
    ngx_http_asana_hook_record_t  rec;

    err = mdb_cursor_open(txn, store->secrets, &cursor);
    if (err) {
        return err;
    }

    key.mv_size = op->key_len;
    key.mv_data = op->key;

    err = ngx_http_asana_hook_record_get(cursor, &key, op->id, &rec);

    if (err == MDB_NOTFOUND || (err == 0 && rec.verified >= op->now)) {
        op->rc = NGX_DECLINED;
        mdb_cursor_close(cursor);
        return 0;
    }

    if (err == 0) {

        /* what lies in LMDB's page goes with the record */

        ngx_memcpy(secret, rec.secret, rec.len);
        rec.secret = secret;
        rec.id = op->id;

        err = ngx_http_asana_hook_store_remove(store, cursor, &key, op->id);
    }

    mdb_cursor_close(cursor);

    if (err == 0) {
        rec.verified = op->now;
        err = ngx_http_asana_hook_store_put(store, txn, &key, &rec);
    }

    ngx_explicit_memzero(secret, NGX_HTTP_ASANA_HOOK_MAX_SECRET);

    op->rc = NGX_OK;

    return err;
}


/*
 * A transaction needs free pages itself, also one that deletes: the store
 * counts as full while there is still room for it.
 */

static int
ngx_http_asana_hook_store_full(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn)
{
    int           err;
    size_t        free, pages, used;
    MDB_val       key, val;
    MDB_stat      stat;
    MDB_cursor   *cursor;
    MDB_envinfo   info;

    err = mdb_env_info(store->env, &info);
    if (err) {
        return err;
    }

    err = mdb_env_stat(store->env, &stat);
    if (err) {
        return err;
    }

    pages = info.me_mapsize / stat.ms_psize;
    used = info.me_last_pgno + 1;

    if (used + NGX_HTTP_ASANA_HOOK_RESERVE < pages) {
        return 0;
    }

    /* database 0 lists the free pages of past transactions by their number */

    err = mdb_cursor_open(txn, 0, &cursor);
    if (err) {
        return err;
    }

    free = pages - ngx_min(used, pages);

    while (free < NGX_HTTP_ASANA_HOOK_RESERVE
           && (err = mdb_cursor_get(cursor, &key, &val, MDB_NEXT)) == 0)
    {
        free += *(size_t *) val.mv_data;
    }

    mdb_cursor_close(cursor);

    if (err && err != MDB_NOTFOUND) {
        return err;
    }

    return (free < NGX_HTTP_ASANA_HOOK_RESERVE) ? MDB_MAP_FULL : 0;
}


/* drops the oldest secrets that never verified a delivery while active */

static int
ngx_http_asana_hook_store_make_room(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_op_t *op)
{
    int          err;
    time_t       created;
    MDB_txn     *txn;
    MDB_val      key, val;
    ngx_uint_t   n;
    MDB_cursor  *cursor;

    err = mdb_txn_begin(store->env, NULL, 0, &txn);
    if (err) {
        return err;
    }

    for (n = 0; n < NGX_HTTP_ASANA_HOOK_DROPS; n++) {

        err = mdb_cursor_open(txn, store->unproven, &cursor);
        if (err) {
            break;
        }

        err = mdb_cursor_get(cursor, &key, &val, MDB_FIRST);
        mdb_cursor_close(cursor);

        if (err) {
            break;
        }

        if (key.mv_size <= NGX_HTTP_ASANA_HOOK_UNPROVEN) {
            err = MDB_CORRUPTED;
            break;
        }

        created = (time_t) ngx_http_asana_hook_get64(key.mv_data);

        if (op->now - created < op->inactive) {
            err = MDB_NOTFOUND;
            break;
        }

        err = ngx_http_asana_hook_store_drop(store, txn, &key);
        if (err) {
            break;
        }
    }

    if (n == 0 || (err && err != MDB_NOTFOUND)) {
        mdb_txn_abort(txn);
        return err ? err : MDB_NOTFOUND;
    }

    err = mdb_txn_commit(txn);

    if (err == 0) {
        ngx_log_error(NGX_LOG_WARN, op->log, 0,
                      "asana_hook: store \"%V\" is full: %ui secrets that "
                      "never verified a delivery were dropped", &store->path,
                      n);
    }

    return err;
}


static int
ngx_http_asana_hook_store_drop(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, MDB_val *unproven)
{
    int          err;
    u_char       buf[NGX_HTTP_ASANA_HOOK_UNPROVEN + NGX_HTTP_ASANA_HOOK_MAX_KEY];
    MDB_val      key;
    MDB_cursor  *cursor;

    if (unproven->mv_size > sizeof(buf)) {
        return MDB_CORRUPTED;
    }

    ngx_memcpy(buf, unproven->mv_data, unproven->mv_size);

    key.mv_size = unproven->mv_size - NGX_HTTP_ASANA_HOOK_UNPROVEN;
    key.mv_data = buf + NGX_HTTP_ASANA_HOOK_UNPROVEN;

    err = mdb_cursor_open(txn, store->secrets, &cursor);
    if (err) {
        return err;
    }

    err = ngx_http_asana_hook_store_remove(store, cursor, &key, buf + 8);

    mdb_cursor_close(cursor);

    return err;
}


static int
ngx_http_asana_hook_store_put(ngx_http_asana_hook_store_t *store,
    MDB_txn *txn, MDB_val *key, ngx_http_asana_hook_record_t *rec)
{
    int      err;
    u_char   buf[NGX_HTTP_ASANA_HOOK_RECORD + NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    u_char   index[NGX_HTTP_ASANA_HOOK_UNPROVEN + NGX_HTTP_ASANA_HOOK_MAX_KEY];
    u_char  *p;
    MDB_val  k, val;

    p = ngx_cpymem(buf, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    p = ngx_http_asana_hook_put64(p, rec->created);
    p = ngx_http_asana_hook_put64(p, rec->verified);
    *p++ = 0;
    *p++ = (u_char) rec->len;
    p = ngx_cpymem(p, rec->secret, rec->len);

    val.mv_size = p - buf;
    val.mv_data = buf;

    err = mdb_put(txn, store->secrets, key, &val, 0);

    ngx_explicit_memzero(buf, sizeof(buf));

    if (err || rec->verified) {
        return err;
    }

    k.mv_size = ngx_http_asana_hook_unproven(index, key, rec);
    k.mv_data = index;

    val.mv_size = 0;
    val.mv_data = index;

    return mdb_put(txn, store->unproven, &k, &val, 0);
}


/* removes one secret of the key, or all of them without an id */

static int
ngx_http_asana_hook_store_remove(ngx_http_asana_hook_store_t *store,
    MDB_cursor *cursor, MDB_val *key, u_char *id)
{
    int                           err;
    u_char                        index[NGX_HTTP_ASANA_HOOK_UNPROVEN
                                        + NGX_HTTP_ASANA_HOOK_MAX_KEY];
    MDB_val                       k;
    ngx_http_asana_hook_record_t  rec;

    for ( ;; ) {

        err = ngx_http_asana_hook_record_get(cursor, key, id, &rec);

        if (err) {
            return (err == MDB_NOTFOUND && id == NULL) ? 0 : err;
        }

        k.mv_size = ngx_http_asana_hook_unproven(index, key, &rec);
        k.mv_data = index;

        err = mdb_cursor_del(cursor, 0);

        if (err == 0 && rec.verified == 0) {
            err = mdb_del(mdb_cursor_txn(cursor), store->unproven, &k, NULL);
        }

        if (err || id) {
            return err;
        }
    }
}


/* the record of the id, or the first one of the key */

static int
ngx_http_asana_hook_record_get(MDB_cursor *cursor, MDB_val *key, u_char *id,
    ngx_http_asana_hook_record_t *rec)
{
    int      err;
    MDB_val  k, val;

    k = *key;

    if (id) {
        val.mv_size = NGX_HTTP_ASANA_HOOK_ID_LEN;
        val.mv_data = id;

        err = mdb_cursor_get(cursor, &k, &val, MDB_GET_BOTH_RANGE);

    } else {
        err = mdb_cursor_get(cursor, &k, &val, MDB_SET_KEY);
    }

    if (err) {
        return err;
    }

    err = ngx_http_asana_hook_record_parse(&val, rec);
    if (err) {
        return err;
    }

    if (id && ngx_memcmp(rec->id, id, NGX_HTTP_ASANA_HOOK_ID_LEN) != 0) {
        return MDB_NOTFOUND;
    }

    return 0;
}


static int
ngx_http_asana_hook_record_parse(MDB_val *val,
    ngx_http_asana_hook_record_t *rec)
{
    u_char  *p;

    p = val->mv_data;

    if (val->mv_size <= NGX_HTTP_ASANA_HOOK_RECORD
        || val->mv_size != (size_t) NGX_HTTP_ASANA_HOOK_RECORD + p[25])
    {
        return MDB_CORRUPTED;
    }

    rec->id = p;
    rec->created = (time_t) ngx_http_asana_hook_get64(p + 8);
    rec->verified = (time_t) ngx_http_asana_hook_get64(p + 16);
    rec->len = p[25];
    rec->secret = p + NGX_HTTP_ASANA_HOOK_RECORD;

    return 0;
}


static size_t
ngx_http_asana_hook_unproven(u_char *buf, MDB_val *key,
    ngx_http_asana_hook_record_t *rec)
{
    u_char  *p;

    p = ngx_http_asana_hook_put64(buf, rec->created);
    p = ngx_cpymem(p, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    p = ngx_cpymem(p, key->mv_data, key->mv_size);

    return p - buf;
}


static u_char *
ngx_http_asana_hook_put64(u_char *p, uint64_t n)
{
    ngx_int_t  shift;

    for (shift = 56; shift >= 0; shift -= 8) {
        *p++ = (u_char) (n >> shift);
    }

    return p;
}


static uint64_t
ngx_http_asana_hook_get64(u_char *p)
{
    uint64_t    n;
    ngx_uint_t  i;

    n = 0;

    for (i = 0; i < 8; i++) {
        n = n << 8 | *p++;
    }

    return n;
}
