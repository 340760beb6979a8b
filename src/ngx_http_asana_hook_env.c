
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * An environment of LMDB: how it is opened, and what makes it unfit to be
 * written.
 *
 * LMDB has one writer, by a mutex in lock.mdb.  If that file is removed, the
 * next process makes another one, and there are two writers.  So whoever has
 * the store open for writing holds a shared lock on one byte of data.mdb, far
 * behind its end, whose number is the inode of his lock.mdb:
 *
 *     data.mdb  | pages ...          |   | 4711 |      | 4715 |
 *               0                   2^62   old worker    new worker
 *
 * A process that sees the lock of another byte does not write.
 */


#include "ngx_http_asana_hook.h"

#include <lmdb.h>


/* the first opener fixes it: two generations of workers, and the tools */
#define NGX_HTTP_ASANA_HOOK_READERS     2048

/* at least what LMDB needs for the readers and the rest of lock.mdb */
#define NGX_HTTP_ASANA_HOOK_LOCK_SIZE                                         \
    (NGX_HTTP_ASANA_HOOK_READERS * 64 + 1024)

#define NGX_HTTP_ASANA_HOOK_BYTE        ((off_t) 1 << 62)
#define NGX_HTTP_ASANA_HOOK_BYTES       ((off_t) 1 << 30)

/* locks that last until this very descriptor is closed, if there are such */

#ifdef F_OFD_SETLK
#define NGX_HTTP_ASANA_HOOK_SETLK       F_OFD_SETLK
#define NGX_HTTP_ASANA_HOOK_GETLK       F_OFD_GETLK
#else
#define NGX_HTTP_ASANA_HOOK_SETLK       F_SETLK
#define NGX_HTTP_ASANA_HOOK_GETLK       F_GETLK
#endif


static int ngx_http_asana_hook_env_start(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, unsigned int flags);
static size_t ngx_http_asana_hook_env_used(ngx_http_asana_hook_env_t *env,
    MDB_envinfo *info);
static int ngx_http_asana_hook_env_reserve_lock(
    ngx_http_asana_hook_store_t *store);
static int ngx_http_asana_hook_env_hold(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env);
static int ngx_http_asana_hook_env_held(int fd, off_t start, off_t len);
static int ngx_http_asana_hook_env_info(ngx_http_asana_hook_store_t *store,
    const char *name, ngx_file_info_t *fi);
static ngx_int_t ngx_http_asana_hook_env_check(
    ngx_http_asana_hook_store_t *store, ngx_http_asana_hook_env_t *env,
    ngx_log_t *log);


ngx_int_t
ngx_http_asana_hook_env_open(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_uint_t fallback, ngx_log_t *log)
{
    int              err;
    ngx_uint_t       made;
    ngx_file_info_t  fi;

    made = (ngx_http_asana_hook_env_info(store, "data.mdb", &fi) == ENOENT);

    err = ngx_http_asana_hook_env_start(store, env, 0);

    if (err == 0) {
        err = ngx_http_asana_hook_env_hold(store, env);
    }

    if (err) {
        ngx_http_asana_hook_env_close(env);

        (void) ngx_http_asana_hook_store_error(store, log, "cannot be opened",
                                               err);

        switch (err) {

        case NGX_ENOSPC:
        case EDQUOT:
        case EFBIG:
        case EROFS:
        case NGX_HTTP_ASANA_HOOK_ELOCK:

            /* what cannot be written may still be read */

            if (fallback
                && ngx_http_asana_hook_env_start(store, env,
                                                 MDB_RDONLY|MDB_NOLOCK)
                   == 0)
            {
                break;
            }

            /* fall through */

        default:
            ngx_http_asana_hook_env_close(env);
            return NGX_ERROR;
        }
    }

    if (ngx_http_asana_hook_env_check(store, env, log) != NGX_OK
        || ngx_http_asana_hook_env_databases(store, env, 0, log) != NGX_OK)
    {
        ngx_http_asana_hook_env_close(env);
        return NGX_ERROR;
    }

    if (made) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "asana_hook: store \"%V\" is made anew and knows no "
                      "secret; if there was one, put it back",
                      &store->path);
    }

    return NGX_OK;
}


static int
ngx_http_asana_hook_env_start(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, unsigned int flags)
{
    int          dead, err;
    size_t       size;
    MDB_envinfo  info;

    env->used = 0;
    env->readonly = (flags & MDB_RDONLY) ? 1 : 0;
    env->opened = 0;

    if (!env->readonly) {
        err = ngx_http_asana_hook_env_reserve_lock(store);
        if (err) {
            return err;
        }
    }

    err = mdb_env_create(&env->env);
    if (err) {
        env->env = NULL;
        return err;
    }

    size = store->max_size + ngx_http_asana_hook_env_reserve(store->max_size);

    err = mdb_env_set_mapsize(env->env, ngx_align(size, ngx_pagesize));

    if (err == 0) {
        err = mdb_env_set_maxdbs(env->env, 8);
    }

    if (err == 0) {
        err = mdb_env_set_maxreaders(env->env, NGX_HTTP_ASANA_HOOK_READERS);
    }

    if (err == 0) {
        err = mdb_env_open(env->env, (char *) store->path.data,
                           flags|MDB_NOTLS|MDB_NORDAHEAD, 0600);
    }

    if (err) {
        return err;
    }

    /* readers that died with their process would hold on to old pages */

    (void) mdb_reader_check(env->env, &dead);

    /* one that another "max_size" let grow has its reserve, too */

    size = ngx_http_asana_hook_env_used(env, &info);
    size = ngx_align(size + ngx_http_asana_hook_env_reserve(size),
                     ngx_pagesize);

    return (size > info.me_mapsize) ? mdb_env_set_mapsize(env->env, size) : 0;
}


static size_t
ngx_http_asana_hook_env_used(ngx_http_asana_hook_env_t *env, MDB_envinfo *info)
{
    MDB_stat  stat;

    if (mdb_env_stat(env->env, &stat) != 0
        || mdb_env_info(env->env, info) != 0)
    {
        ngx_memzero(info, sizeof(MDB_envinfo));
        return 0;
    }

    return (info->me_last_pgno + 1) * stat.ms_psize;
}


ngx_uint_t
ngx_http_asana_hook_env_outgrown(ngx_http_asana_hook_env_t *env)
{
    size_t       used;
    MDB_envinfo  info;

    used = ngx_http_asana_hook_env_used(env, &info);

    if (used <= env->used
        || used <= ngx_http_asana_hook_env_limit(info.me_mapsize))
    {
        return 0;
    }

    env->used = used;

    return 1;
}


int
ngx_http_asana_hook_env_resize(ngx_http_asana_hook_env_t *env)
{
    int          err;
    size_t       size;
    MDB_envinfo  info;

    (void) ngx_http_asana_hook_env_used(env, &info);
    size = info.me_mapsize;

    err = mdb_env_set_mapsize(env->env, 0);

    if (err == 0) {

        /* it is never made smaller */

        (void) ngx_http_asana_hook_env_used(env, &info);

        if (info.me_mapsize < size) {
            err = mdb_env_set_mapsize(env->env, size);
        }
    }

    return err;
}


/*
 * LMDB writes to lock.mdb through its map: a block that cannot be had then
 * ends the process.  Nobody in this process has the file open, so its locks
 * do not go with the descriptor.
 */

static int
ngx_http_asana_hook_env_reserve_lock(ngx_http_asana_hook_store_t *store)
{
    int              err;
    off_t            size;
    u_char           name[NGX_MAX_PATH];
    ngx_fd_t         fd;
    ngx_file_info_t  fi;

    (void) ngx_snprintf(name, NGX_MAX_PATH, "%V/lock.mdb%Z", &store->path);
    name[NGX_MAX_PATH - 1] = '\0';

    fd = open((char *) name, O_RDWR|O_CREAT|O_CLOEXEC, 0600);

    if (fd == NGX_INVALID_FILE) {
        return ngx_errno;
    }

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        err = ngx_errno;
        (void) ngx_close_file(fd);
        return err;
    }

    err = 0;

    /* one that is there keeps its size, which others have mapped */

    size = ngx_file_size(&fi) ? ngx_file_size(&fi)
                              : NGX_HTTP_ASANA_HOOK_LOCK_SIZE;

    if ((off_t) fi.st_blocks * 512 < size) {
        err = posix_fallocate(fd, 0, size);
    }

    (void) ngx_close_file(fd);

    return err;
}


/* notes which lock.mdb it is, and tells others by the byte of its number */

static int
ngx_http_asana_hook_env_hold(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env)
{
    int              err, fd;
    off_t            at;
    struct flock     fl;
    ngx_file_info_t  fi;

    fd = -1;
    err = ngx_http_asana_hook_env_info(store, "lock.mdb", &fi);

    if (err) {
        return err;
    }

    err = mdb_env_get_fd(env->env, &fd);

    if (err) {
        return err;
    }

    env->lock_uniq = ngx_file_uniq(&fi);
    env->lock_dev = fi.st_dev;

    at = (off_t) ((uint64_t) env->lock_uniq % NGX_HTTP_ASANA_HOOK_BYTES);

    ngx_memzero(&fl, sizeof(struct flock));

    fl.l_type = F_RDLCK;
    fl.l_whence = SEEK_SET;
    fl.l_start = NGX_HTTP_ASANA_HOOK_BYTE + at;
    fl.l_len = 1;

    if (fcntl(fd, NGX_HTTP_ASANA_HOOK_SETLK, &fl) == -1) {
        return ngx_errno;
    }

    err = ngx_http_asana_hook_env_held(fd, 0, at);

    if (err == 0) {
        err = ngx_http_asana_hook_env_held(fd, at + 1,
                                           NGX_HTTP_ASANA_HOOK_BYTES - at - 1);
    }

    return err;
}


static int
ngx_http_asana_hook_env_held(int fd, off_t start, off_t len)
{
    struct flock  fl;

    if (len == 0) {
        return 0;
    }

    ngx_memzero(&fl, sizeof(struct flock));

    fl.l_type = F_WRLCK;
    fl.l_whence = SEEK_SET;
    fl.l_start = NGX_HTTP_ASANA_HOOK_BYTE + start;
    fl.l_len = len;

    if (fcntl(fd, NGX_HTTP_ASANA_HOOK_GETLK, &fl) == -1) {
        return ngx_errno;
    }

    return (fl.l_type == F_UNLCK) ? 0 : NGX_HTTP_ASANA_HOOK_ELOCK;
}


static int
ngx_http_asana_hook_env_info(ngx_http_asana_hook_store_t *store,
    const char *name, ngx_file_info_t *fi)
{
    u_char  path[NGX_MAX_PATH];

    (void) ngx_snprintf(path, NGX_MAX_PATH, "%V/%s%Z", &store->path, name);
    path[NGX_MAX_PATH - 1] = '\0';

    return (ngx_file_info(path, fi) == NGX_FILE_ERROR) ? ngx_errno : 0;
}


static ngx_int_t
ngx_http_asana_hook_env_check(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_log_t *log)
{
    int              fd;
    off_t            size;
    MDB_stat         stat;
    MDB_envinfo      info;
    ngx_file_info_t  fi;

    /* a file that was cut short would kill the worker at a look-up */

    if (mdb_env_get_fd(env->env, &fd) != 0
        || ngx_fd_info(fd, &fi) == NGX_FILE_ERROR
        || mdb_env_stat(env->env, &stat) != 0
        || mdb_env_info(env->env, &info) != 0)
    {
        return ngx_http_asana_hook_store_error(store, log, "cannot be read",
                                               ngx_errno);
    }

    size = (off_t) (info.me_last_pgno + 1) * stat.ms_psize;

    if (ngx_file_size(&fi) < size) {
        if (ngx_http_asana_hook_store_tells(store, "is cut", 0)) {
            ngx_log_error(NGX_LOG_CRIT, log, 0,
                          "asana_hook: store \"%V\": \"data.mdb\" has %O "
                          "bytes instead of at least %O and is not used; "
                          "restore it from a backup", &store->path,
                          ngx_file_size(&fi), size);
        }

        return NGX_ERROR;
    }

    /* transactions of another file are not to be taken for those of this */

    env->version = (uint64_t) (ngx_file_uniq(&fi) ^ fi.st_dev << 16) << 40;

    return NGX_OK;
}


/* the handles outlive a read only if it is committed */

ngx_int_t
ngx_http_asana_hook_env_databases(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, unsigned int flags, ngx_log_t *log)
{
    int          err;
    MDB_txn     *txn;
    ngx_int_t    rc;
    const char  *what;

    what = flags ? "cannot be written" : "cannot be read";

    err = mdb_txn_begin(env->env, NULL, flags ? 0 : MDB_RDONLY, &txn);

    if (err) {
        return ngx_http_asana_hook_store_error(store, log, what, err);
    }

    rc = ngx_http_asana_hook_store_databases(store, env, txn, flags, log);

    if (rc != NGX_OK) {
        mdb_txn_abort(txn);
        return (rc == NGX_DECLINED) ? NGX_OK : NGX_ERROR;
    }

    err = mdb_txn_commit(txn);

    if (err) {
        return ngx_http_asana_hook_store_error(store, log, what, err);
    }

    env->opened = 1;

    return NGX_OK;
}


void
ngx_http_asana_hook_env_close(ngx_http_asana_hook_env_t *env)
{
    if (env->env) {
        mdb_env_close(env->env);
        env->env = NULL;
    }

    env->opened = 0;
    env->readonly = 0;
}


/*
 * A directory that was removed or replaced while it is in use would swallow
 * secrets: LMDB goes on writing to the file that has no name any more.
 */

ngx_int_t
ngx_http_asana_hook_env_in_place(ngx_http_asana_hook_store_t *store,
    ngx_http_asana_hook_env_t *env, ngx_log_t *log)
{
    int              err, fd;
    ngx_uint_t       other;
    ngx_file_info_t  fi, open;

    if (mdb_env_get_fd(env->env, &fd) != 0
        || ngx_fd_info(fd, &open) == NGX_FILE_ERROR)
    {
        return ngx_http_asana_hook_store_error(store, log, "cannot be written",
                                               ngx_errno);
    }

    err = ngx_http_asana_hook_env_info(store, "data.mdb", &fi);

    other = (err == NGX_ENOENT || err == NGX_ENOTDIR
             || (err == 0
                 && (ngx_file_uniq(&fi) != ngx_file_uniq(&open)
                     || fi.st_dev != open.st_dev)));

    if (other) {
        if (ngx_http_asana_hook_store_tells(store, "is replaced", 0)) {
            ngx_log_error(NGX_LOG_CRIT, log, 0,
                          "asana_hook: store \"%V\" was removed or replaced "
                          "while in use; put it back, or restart nginx to use "
                          "what is there now", &store->path);
        }

        return NGX_ERROR;
    }

    if (err == 0) {
        err = ngx_http_asana_hook_env_info(store, "lock.mdb", &fi);
    }

    if (err == NGX_ENOENT
        || (err == 0
            && (ngx_file_uniq(&fi) != env->lock_uniq
                || fi.st_dev != env->lock_dev)))
    {
        err = NGX_HTTP_ASANA_HOOK_ELOCK;
    }

    return err ? ngx_http_asana_hook_store_error(store, log,
                                                 "cannot be written", err)
               : NGX_OK;
}
