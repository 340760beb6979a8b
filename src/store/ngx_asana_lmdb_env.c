
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * LMDB trusts its files.  What it would not survive is looked for here: data
 * that were cut short, a lock file without blocks on a full disk, files that
 * were removed or replaced while in use.
 *
 * Two lock files for the same data make two writers, which destroy it, and one
 * lock file for two data files misleads the readers.  So each process says by
 * a shared lock on a byte of each file which other one it uses with it:
 *
 *     data.mdb, inode 7     byte 2^61 + 9
 *     lock.mdb, inode 9     byte 2^61 + 7
 *
 * A lock on another byte there is one of a process with another file.  The
 * kernel lets go of them with the last descriptor, so they need no care.
 */


#include "ngx_asana_lmdb_env.h"


/* the first opener fixes it: two generations of workers, and the tools */
#define NGX_ASANA_LMDB_READERS    2048

/* lock.mdb has a head of two cache lines, and one for each reader */
#define NGX_ASANA_LMDB_LOCK_SIZE  (64 * (NGX_ASANA_LMDB_READERS + 2))

#define NGX_ASANA_LMDB_PAIR       ((off_t) 1 << 61)

/* how often one that opens the store waits ten milliseconds for another */
#define NGX_ASANA_LMDB_TURNS      100


static int ngx_asana_lmdb_env_reserve(ngx_asana_lmdb_env_t *e);
#ifdef F_OFD_SETLK
static void ngx_asana_lmdb_env_turn(ngx_asana_lmdb_env_t *e);
#endif
static int ngx_asana_lmdb_env_try(ngx_asana_lmdb_env_t *e,
    unsigned int flags);
static int ngx_asana_lmdb_env_databases(ngx_asana_lmdb_env_t *e,
    unsigned int flags);
static ngx_int_t ngx_asana_lmdb_env_check(ngx_asana_lmdb_env_t *e,
    ngx_log_t *log);
static ngx_fd_t ngx_asana_lmdb_env_file(ngx_asana_lmdb_env_t *e,
    const char *file, int create);
static int ngx_asana_lmdb_env_info(ngx_asana_lmdb_env_t *e, const char *file,
    ngx_file_info_t *fi);
static void ngx_asana_lmdb_env_name(ngx_asana_lmdb_env_t *e, u_char *name,
    const char *file);
static ngx_uint_t ngx_asana_lmdb_env_same(ngx_file_info_t *fi,
    ngx_file_info_t *other);
static ngx_uint_t ngx_asana_lmdb_env_pair(ngx_fd_t fd, ngx_file_info_t *other);
static ngx_int_t ngx_asana_lmdb_env_lock(ngx_fd_t fd, int cmd, short type,
    off_t start, off_t len);


ngx_int_t
ngx_asana_lmdb_env_open(ngx_asana_lmdb_env_t *e, ngx_log_t *log)
{
    int       err, ro;
    ngx_fd_t  made;

    e->failed = ngx_time();

    made = NGX_INVALID_FILE;
    err = ngx_asana_lmdb_env_reserve(e);

    if (err == 0) {
        made = ngx_asana_lmdb_env_file(e, "data.mdb", O_CREAT|O_EXCL);

        if (made != NGX_INVALID_FILE) {
            (void) ngx_close_file(made);
        }

        err = ngx_asana_lmdb_env_try(e, 0);
    }

    if (err == NGX_EACCES || err == NGX_EPERM || err == EROFS
        || err == NGX_ENOSPC || err == EDQUOT || err == EFBIG)
    {
        /* what cannot be written may still be read, without a lock file */

        ngx_asana_lmdb_env_close(e);

        ro = ngx_asana_lmdb_env_try(e, MDB_RDONLY|MDB_NOLOCK);

        if (ro == 0) {
            (void) ngx_asana_lmdb_error(&e->errors, log, "can only be read",
                                        err);
            err = 0;
        }
    }

    if (err) {
        (void) ngx_asana_lmdb_error(&e->errors, log, "cannot be opened", err);

    } else if (ngx_asana_lmdb_env_check(e, log) != NGX_OK) {
        err = NGX_ERROR;

    } else {
        err = ngx_asana_lmdb_env_databases(e, 0);

        if (err) {
            (void) ngx_asana_lmdb_error(&e->errors, log, "cannot be used",
                                        err);
        }
    }

    if (err) {
        ngx_asana_lmdb_env_close(e);
        return NGX_ERROR;
    }

    if (made != NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "asana_hook: store \"%V\" was made anew, it holds no "
                      "secrets; if it should, restore it from a backup",
                      &e->conf->state);
    }

#ifdef F_OFD_SETLK
    (void) ngx_asana_lmdb_env_lock(e->lock_fd, F_OFD_SETLK, F_UNLCK,
                                   NGX_ASANA_LMDB_PAIR - 1, 1);
#endif

    e->failed = 0;

    return NGX_OK;
}


void
ngx_asana_lmdb_env_close(ngx_asana_lmdb_env_t *e)
{
    if (e->env) {
        mdb_env_close(e->env);
        e->env = NULL;
    }

    /* not before, for LMDB's own locks would go with it */

    if (e->lock_fd != NGX_INVALID_FILE) {
        (void) ngx_close_file(e->lock_fd);
        e->lock_fd = NGX_INVALID_FILE;
    }

    ngx_memzero(&e->dbs, sizeof(ngx_asana_lmdb_dbs_t));
    e->closed = 0;
}


/*
 * LMDB writes to lock.mdb through its map: a block that cannot be had, on a
 * full disk, would kill the process.  A file that others use keeps its size,
 * for it is the size of their maps.
 */

static int
ngx_asana_lmdb_env_reserve(ngx_asana_lmdb_env_t *e)
{
    int    err;
    off_t  size;

    e->lock_fd = ngx_asana_lmdb_env_file(e, "lock.mdb", O_CREAT);

    if (e->lock_fd == NGX_INVALID_FILE
        || ngx_fd_info(e->lock_fd, &e->lock_fi) == NGX_FILE_ERROR)
    {
        return ngx_errno;
    }

    size = ngx_file_size(&e->lock_fi);

#ifdef F_OFD_SETLK

    ngx_asana_lmdb_env_turn(e);

    /* who uses it has a lock of LMDB on its first byte */

    if (size < NGX_ASANA_LMDB_LOCK_SIZE
        && ngx_asana_lmdb_env_lock(e->lock_fd, F_OFD_GETLK, F_WRLCK, 0, 1)
           == NGX_OK)
    {
        size = NGX_ASANA_LMDB_LOCK_SIZE;
    }

#else

    if (size == 0) {
        size = NGX_ASANA_LMDB_LOCK_SIZE;
    }

#endif

    err = size ? posix_fallocate(e->lock_fd, 0, size) : 0;

    return (err == EINVAL || err == NGX_EOPNOTSUPP) ? 0 : err;
}


#ifdef F_OFD_SETLK

/*
 * Workers that start together open a store one after the other: between the
 * reservation of one and its LMDB the file looks like one that is in use.  The
 * lock goes when the store is open, or with its descriptor.
 */

static void
ngx_asana_lmdb_env_turn(ngx_asana_lmdb_env_t *e)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_ASANA_LMDB_TURNS; i++) {

        if (ngx_asana_lmdb_env_lock(e->lock_fd, F_OFD_SETLK, F_WRLCK,
                                    NGX_ASANA_LMDB_PAIR - 1, 1)
            == NGX_OK)
        {
            return;
        }

        ngx_msleep(10);
    }
}

#endif


static int
ngx_asana_lmdb_env_try(ngx_asana_lmdb_env_t *e, unsigned int flags)
{
    int  dead, err;

    err = mdb_env_create(&e->env);

    if (err) {
        e->env = NULL;
        return err;
    }

    err = mdb_env_set_mapsize(e->env, e->map_size);

    if (err == 0) {
        err = mdb_env_set_maxdbs(e->env, NGX_ASANA_LMDB_MAX_DBS);
    }

    if (err == 0) {
        err = mdb_env_set_maxreaders(e->env, NGX_ASANA_LMDB_READERS);
    }

    if (err == 0) {
        err = mdb_env_open(e->env, (char *) e->conf->state.data,
                           flags|MDB_NOTLS|MDB_NORDAHEAD, 0600);
    }

    if (err) {
        return err;
    }

    e->read_only = (flags != 0);

    /* readers that died with their process would hold on to old pages */

    (void) mdb_reader_check(e->env, &dead);

    return 0;
}


/* what LMDB does not see */

static ngx_int_t
ngx_asana_lmdb_env_check(ngx_asana_lmdb_env_t *e, ngx_log_t *log)
{
    int              err, fd;
    off_t            size;
    MDB_stat         stat;
    MDB_envinfo      info;
    ngx_file_info_t  fi;

    if (mdb_env_get_fd(e->env, &fd) != 0
        || ngx_fd_info(fd, &e->data_fi) == NGX_FILE_ERROR
        || mdb_env_stat(e->env, &stat) != 0
        || mdb_env_info(e->env, &info) != 0)
    {
        return ngx_asana_lmdb_error(&e->errors, log, "cannot be read",
                                    ngx_errno);
    }

    /* a file that was cut short would kill the worker at a look-up */

    size = (off_t) (info.me_last_pgno + 1) * stat.ms_psize;

    if (ngx_file_size(&e->data_fi) < size) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: store \"%V\": \"data.mdb\" has %O bytes "
                      "instead of at least %O and is not used; restore it "
                      "from a backup", &e->conf->state,
                      ngx_file_size(&e->data_fi), size);
        return NGX_ERROR;
    }

    e->max_pages = e->conf->max_size / stat.ms_psize;

    e->salt = ((uint64_t) ngx_file_uniq(&e->data_fi) * 2 + 1) << 40;

    if (e->lock_fd == NGX_INVALID_FILE) {
        return NGX_OK;
    }

    /* LMDB has opened it by its name, between these two */

    err = ngx_asana_lmdb_env_info(e, "lock.mdb", &fi);

    if (err || !ngx_asana_lmdb_env_same(&fi, &e->lock_fi)) {
        return ngx_asana_lmdb_error(&e->errors, log, "cannot be opened",
                                    err ? err : NGX_EAGAIN);
    }

    (void) ngx_asana_lmdb_env_pair(fd, &e->lock_fi);

    if (ngx_asana_lmdb_env_pair(e->lock_fd, &e->data_fi)) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: store \"%V\": \"data.mdb\" was replaced, "
                      "but \"lock.mdb\" is still used with the old one; it is "
                      "used when the old workers have ended, or after a "
                      "restart of nginx", &e->conf->state);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * A new store gets its databases here, for handles that a batch opens would be
 * of use only after it: until then, what other processes write is not known.
 */

static int
ngx_asana_lmdb_env_databases(ngx_asana_lmdb_env_t *e, unsigned int flags)
{
    int                       err;
    uint32_t                  format;
    ngx_asana_lmdb_records_t  recs;

    ngx_asana_lmdb_format_init(&recs, e->conf->seal, &e->conf->zone);

    err = mdb_txn_begin(e->env, NULL, flags ? 0 : MDB_RDONLY, &recs.txn);
    if (err) {
        return err;
    }

    err = ngx_asana_lmdb_format_open(&recs, flags);

    if (err == 0) {
        err = ngx_asana_lmdb_format(&recs, &format);
    }

    if (err) {
        mdb_txn_abort(recs.txn);
        return err;
    }

    /* the handles outlive a read only if it is committed */

    err = mdb_txn_commit(recs.txn);

    if (err == 0 && recs.dbs.format == 0 && flags == 0 && !e->read_only) {
        return ngx_asana_lmdb_env_databases(e, MDB_CREATE);
    }

    if (err == 0) {
        e->dbs = recs.dbs;
    }

    return err;
}


void
ngx_asana_lmdb_env_damaged(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, MDB_val *key, int err, ngx_log_t *log)
{
    ngx_asana_seal_place_t  *place;

    if (err == NGX_DECLINED) {
        ngx_asana_lmdb_error_damaged(&e->errors, log, key);
        return;
    }

    place = &recs->value.place;

    place->key.len = key->mv_size;
    place->key.data = key->mv_data;

    if (!ngx_asana_lmdb_error_quiet(&e->errors, 62)) {
        ngx_asana_seal_complain(place, recs->value.rc, recs->value.key_id,
                                log);
    }
}


int
ngx_asana_lmdb_env_writable(ngx_asana_lmdb_env_t *e)
{
    int     err;
    u_char  name[NGX_MAX_PATH];

    ngx_asana_lmdb_env_name(e, name, "data.mdb");

    if (access((char *) name, R_OK|W_OK) == -1) {
        return ngx_errno;
    }

    /* LMDB has not opened it, so nothing goes with the descriptor */

    err = ngx_asana_lmdb_env_reserve(e);

    if (e->lock_fd != NGX_INVALID_FILE) {
        (void) ngx_close_file(e->lock_fd);
        e->lock_fd = NGX_INVALID_FILE;
    }

    return err;
}


ngx_int_t
ngx_asana_lmdb_env_in_place(ngx_asana_lmdb_env_t *e, ngx_log_t *log)
{
    int              data, err, fd, lock;
    ngx_file_info_t  data_fi, lock_fi;

    data = ngx_asana_lmdb_env_info(e, "data.mdb", &data_fi);
    lock = ngx_asana_lmdb_env_info(e, "lock.mdb", &lock_fi);

    err = data ? data : lock;

    if (err && err != NGX_ENOENT && err != NGX_ENOTDIR) {

        /* who may not look does not know */

        return ngx_asana_lmdb_error(&e->errors, log, "cannot be written", err);
    }

    if (data || !ngx_asana_lmdb_env_same(&data_fi, &e->data_fi)) {
        if (!ngx_asana_lmdb_error_quiet(&e->errors, NGX_ENOENT)) {
            ngx_log_error(NGX_LOG_CRIT, log, 0,
                          "asana_hook: store \"%V\" was removed or replaced "
                          "while in use; put it back, or restart nginx to "
                          "use what is there now", &e->conf->state);
        }

        return NGX_ERROR;
    }

    if (lock || !ngx_asana_lmdb_env_same(&lock_fi, &e->lock_fi)
        || mdb_env_get_fd(e->env, &fd) != 0
        || ngx_asana_lmdb_env_pair(fd, &e->lock_fi))
    {
        if (!ngx_asana_lmdb_error_quiet(&e->errors, NGX_EBUSY)) {
            ngx_log_error(NGX_LOG_CRIT, log, 0,
                          "asana_hook: store \"%V\" cannot be written: "
                          "\"lock.mdb\" was removed or replaced while in "
                          "use; reload nginx, and end whatever else uses the "
                          "store", &e->conf->state);
        }

        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_fd_t
ngx_asana_lmdb_env_file(ngx_asana_lmdb_env_t *e, const char *file, int create)
{
    u_char  name[NGX_MAX_PATH];

    ngx_asana_lmdb_env_name(e, name, file);

    return open((char *) name, O_RDWR|O_CLOEXEC|create, 0600);
}


static int
ngx_asana_lmdb_env_info(ngx_asana_lmdb_env_t *e, const char *file,
    ngx_file_info_t *fi)
{
    u_char  name[NGX_MAX_PATH];

    ngx_asana_lmdb_env_name(e, name, file);

    return (ngx_file_info(name, fi) == NGX_FILE_ERROR) ? ngx_errno : 0;
}


static void
ngx_asana_lmdb_env_name(ngx_asana_lmdb_env_t *e, u_char *name,
    const char *file)
{
    (void) ngx_snprintf(name, NGX_MAX_PATH, "%s/%s%Z", e->conf->state.data,
                        file);
    name[NGX_MAX_PATH - 1] = '\0';
}


static ngx_uint_t
ngx_asana_lmdb_env_same(ngx_file_info_t *fi, ngx_file_info_t *other)
{
    return fi->st_dev == other->st_dev
           && ngx_file_uniq(fi) == ngx_file_uniq(other);
}


/*
 * Says that this process uses the file with the other one; returns whether
 * another process uses it with a third one.
 */

static ngx_uint_t
ngx_asana_lmdb_env_pair(ngx_fd_t fd, ngx_file_info_t *other)
{
#ifdef F_OFD_SETLK

    off_t  n;

    n = (off_t) ngx_file_uniq(other) & (NGX_ASANA_LMDB_PAIR - 1);

    /* a file system without locks is none for LMDB either */

    (void) ngx_asana_lmdb_env_lock(fd, F_OFD_SETLK, F_RDLCK,
                                   NGX_ASANA_LMDB_PAIR + n, 1);

    return (n && ngx_asana_lmdb_env_lock(fd, F_OFD_GETLK, F_WRLCK,
                                         NGX_ASANA_LMDB_PAIR, n) != NGX_OK)
           || ngx_asana_lmdb_env_lock(fd, F_OFD_GETLK, F_WRLCK,
                                      NGX_ASANA_LMDB_PAIR + n + 1, 0)
              != NGX_OK;

#else

    return 0;

#endif
}


#ifdef F_OFD_SETLK

static ngx_int_t
ngx_asana_lmdb_env_lock(ngx_fd_t fd, int cmd, short type, off_t start,
    off_t len)
{
    struct flock  fl;

    ngx_memzero(&fl, sizeof(struct flock));

    fl.l_type = type;
    fl.l_whence = SEEK_SET;
    fl.l_start = start;
    fl.l_len = len;

    if (fcntl(fd, cmd, &fl) == -1) {
        return (cmd == F_OFD_GETLK) ? NGX_OK : NGX_DECLINED;
    }

    return (cmd == F_OFD_GETLK && fl.l_type != F_UNLCK) ? NGX_DECLINED
                                                        : NGX_OK;
}

#endif
