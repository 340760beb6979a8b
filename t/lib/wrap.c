
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What the module calls goes through here in the nginx of "make wrap": each
 * function f that its objects call is test_f() instead.
 *
 * Failures: the file named by ASANA_WRAP holds what is shared with a test,
 * see t/lib/Wrap.pm.  When "countdown" calls have been made, one of them
 * fails, or all from then on.
 *
 * The lock: while the zone's mutex is held, a call of anything but what
 * tools/wrap names as fit for it ends the process.  The longest time that it
 * was held is added to the file named by ASANA_WRAP_HOLDS at exit.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#include <lmdb.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>


typedef struct {
    int64_t                        countdown;  /* 0: nothing is to fail */
    int64_t                        sticky;     /* whether all later ones do */
    int64_t                        err;        /* of LMDB, 0: the usual */
    int64_t                        hits;
    int64_t                        calls;
    int64_t                        blocks;     /* in existence */
    int64_t                        txns;
    int64_t                        cursors;
    char                           name[64];   /* what failed first */
} wrap_t;


typedef struct {
    int64_t                        locks;
    int64_t                        wall;       /* worst, nanoseconds */
    int64_t                        cpu;
} wrap_holds_t;


static wrap_t           wrap_none;
static wrap_t          *wrap = &wrap_none;

static int              wrap_fd = -1;
static wrap_holds_t     wrap_holds;

static __thread int     wrap_held;
static __thread int64_t wrap_wall;
static __thread int64_t wrap_cpu;


static void __attribute__((constructor))
wrap_init(void)
{
    int    fd;
    char  *path;
    void  *p;

    /* nginx clears its environment, and gives up its rights */

    path = getenv("ASANA_WRAP");

    if (path) {
        fd = open(path, O_RDWR|O_CLOEXEC);
        p = mmap(NULL, sizeof(wrap_t), PROT_READ|PROT_WRITE, MAP_SHARED, fd,
                 0);
        if (fd == -1 || p == MAP_FAILED) {
            abort();
        }

        wrap = p;
        (void) close(fd);
    }

    path = getenv("ASANA_WRAP_HOLDS");

    if (path) {
        wrap_fd = open(path, O_WRONLY|O_APPEND|O_CREAT|O_CLOEXEC, 0600);
    }
}


static void __attribute__((destructor))
wrap_exit(void)
{
    if (wrap_holds.locks && wrap_fd != -1) {
        dprintf(wrap_fd, "%ld %ld %ld\n", (long) wrap_holds.locks,
                (long) wrap_holds.wall, (long) wrap_holds.cpu);
    }
}


static int64_t
wrap_now(clockid_t id)
{
    struct timespec  ts;

    (void) clock_gettime(id, &ts);

    return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}


static void
wrap_free_of_lock(const char *name)
{
    if (wrap_held) {
        fprintf(stderr, "wrap: %s() is called with the mutex held\n", name);
        abort();
    }
}


static int
wrap_fails(const char *name)
{
    int64_t  n;

    if (__atomic_load_n(&wrap->countdown, __ATOMIC_SEQ_CST) <= 0) {
        return __atomic_load_n(&wrap->hits, __ATOMIC_SEQ_CST)
               && __atomic_load_n(&wrap->sticky, __ATOMIC_SEQ_CST);
    }

    (void) __atomic_add_fetch(&wrap->calls, 1, __ATOMIC_SEQ_CST);

    n = __atomic_sub_fetch(&wrap->countdown, 1, __ATOMIC_SEQ_CST);

    if (n != 0) {
        return 0;
    }

    (void) snprintf(wrap->name, sizeof(wrap->name), "%s", name);
    (void) __atomic_add_fetch(&wrap->hits, 1, __ATOMIC_SEQ_CST);

    return 1;
}


static int
wrap_err(int err)
{
    return wrap->err ? (int) wrap->err : err;
}


static void
wrap_count(int64_t *counter, int64_t n)
{
    (void) __atomic_add_fetch(counter, n, __ATOMIC_SEQ_CST);
}


#define WRAP(type, name, params, args, failure)                               \
    type test_##name params;                                                  \
    type test_##name params                                                   \
    {                                                                         \
        wrap_free_of_lock(#name);                                             \
        if (wrap_fails(#name)) {                                              \
            return failure;                                                   \
        }                                                                     \
        return name args;                                                     \
    }

/* can not fail, or nobody asks */
#define KEEP(type, name, params, args)                                        \
    type test_##name params;                                                  \
    type test_##name params                                                   \
    {                                                                         \
        wrap_free_of_lock(#name);                                             \
        return name args;                                                     \
    }

/* the same, and changes a counter */
#define LESS(type, name, params, args, counter)                               \
    type test_##name params;                                                  \
    type test_##name params                                                   \
    {                                                                         \
        wrap_free_of_lock(#name);                                             \
        wrap_count(&wrap->counter, -1);                                       \
        name args;                                                            \
    }

#define MORE(name, params, args, counter, failure)                            \
    int test_##name params;                                                   \
    int test_##name params                                                    \
    {                                                                         \
        int  err;                                                             \
                                                                              \
        wrap_free_of_lock(#name);                                             \
        if (wrap_fails(#name)) {                                              \
            return failure;                                                   \
        }                                                                     \
        err = name args;                                                      \
        if (err == 0) {                                                       \
            wrap_count(&wrap->counter, 1);                                    \
        }                                                                     \
        return err;                                                           \
    }


/* the lock */

void test_ngx_shmtx_lock(ngx_shmtx_t *mtx);
void test_ngx_shmtx_unlock(ngx_shmtx_t *mtx);
void *test_ngx_slab_alloc_locked(ngx_slab_pool_t *pool, size_t size);


void
test_ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    wrap_free_of_lock("ngx_shmtx_lock");

    ngx_shmtx_lock(mtx);

    wrap_held = 1;
    wrap_cpu = wrap_now(CLOCK_THREAD_CPUTIME_ID);
    wrap_wall = wrap_now(CLOCK_MONOTONIC);
}


void
test_ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    int64_t  wall, cpu;

    wall = wrap_now(CLOCK_MONOTONIC) - wrap_wall;
    cpu = wrap_now(CLOCK_THREAD_CPUTIME_ID) - wrap_cpu;

    wrap_held = 0;

    ngx_shmtx_unlock(mtx);

    wrap_holds.locks++;
    wrap_holds.wall = ngx_max(wrap_holds.wall, wall);
    wrap_holds.cpu = ngx_max(wrap_holds.cpu, cpu);
}


void *
test_ngx_slab_alloc_locked(ngx_slab_pool_t *pool, size_t size)
{
    if (wrap_fails("ngx_slab_alloc_locked")) {
        return NULL;
    }

    return ngx_slab_alloc_locked(pool, size);
}


/* memory */

WRAP(void *, ngx_palloc, (ngx_pool_t *pool, size_t size), (pool, size), NULL)
WRAP(void *, ngx_pnalloc, (ngx_pool_t *pool, size_t size), (pool, size), NULL)
WRAP(u_char *, ngx_pstrdup, (ngx_pool_t *pool, ngx_str_t *src), (pool, src),
     NULL)
WRAP(void *, ngx_pcalloc, (ngx_pool_t *pool, size_t size), (pool, size), NULL)
WRAP(void *, ngx_list_push, (ngx_list_t *list), (list), NULL)
WRAP(void *, ngx_array_push, (ngx_array_t *a), (a), NULL)
WRAP(ngx_pool_cleanup_t *, ngx_pool_cleanup_add, (ngx_pool_t *p, size_t size),
     (p, size), NULL)
WRAP(ngx_buf_t *, ngx_create_temp_buf, (ngx_pool_t *pool, size_t size),
     (pool, size), NULL)
WRAP(ngx_chain_t *, ngx_alloc_chain_link, (ngx_pool_t *pool), (pool), NULL)
KEEP(ngx_int_t, ngx_pfree, (ngx_pool_t *pool, void *p), (pool, p))
WRAP(void *, ngx_slab_alloc, (ngx_slab_pool_t *pool, size_t size),
     (pool, size), NULL)
WRAP(void *, ngx_slab_calloc, (ngx_slab_pool_t *pool, size_t size),
     (pool, size), NULL)


/* blocks: all that the module has by these */

#define BLOCK(name)                                                           \
    void *test_##name(size_t size, ngx_log_t *log);                           \
    void *test_##name(size_t size, ngx_log_t *log)                            \
    {                                                                         \
        void  *p;                                                             \
                                                                              \
        wrap_free_of_lock(#name);                                             \
        p = wrap_fails(#name) ? NULL : name(size, log);                       \
        if (p) {                                                              \
            wrap_count(&wrap->blocks, 1);                                     \
        }                                                                     \
        return p;                                                             \
    }

BLOCK(ngx_alloc)
BLOCK(ngx_calloc)


void test_free(void *p);


void
test_free(void *p)
{
    wrap_free_of_lock("free");

    if (p) {
        wrap_count(&wrap->blocks, -1);
    }

    free(p);
}


/* the configuration of nginx */

WRAP(ngx_shm_zone_t *, ngx_shared_memory_add, (ngx_conf_t *cf,
     ngx_str_t *name, size_t size, void *tag), (cf, name, size, tag), NULL)
WRAP(ngx_int_t, ngx_add_path, (ngx_conf_t *cf, ngx_path_t **slot),
     (cf, slot), NGX_ERROR)
WRAP(ngx_int_t, ngx_conf_full_name, (ngx_cycle_t *cycle, ngx_str_t *name,
     ngx_uint_t conf_prefix), (cycle, name, conf_prefix), NGX_ERROR)
WRAP(ngx_http_variable_t *, ngx_http_add_variable, (ngx_conf_t *cf,
     ngx_str_t *name, ngx_uint_t flags), (cf, name, flags), NULL)
WRAP(ngx_int_t, ngx_http_compile_complex_value,
     (ngx_http_compile_complex_value_t *ccv), (ccv), NGX_ERROR)
WRAP(char *, ngx_http_set_complex_value_slot, (ngx_conf_t *cf,
     ngx_command_t *cmd, void *conf), (cf, cmd, conf), NGX_CONF_ERROR)


/* nginx */

WRAP(ngx_int_t, ngx_http_complex_value, (ngx_http_request_t *r,
     ngx_http_complex_value_t *val, ngx_str_t *value), (r, val, value),
     NGX_ERROR)
WRAP(ngx_int_t, ngx_http_read_client_request_body, (ngx_http_request_t *r,
     ngx_http_client_body_handler_pt pt), (r, pt),
     NGX_HTTP_INTERNAL_SERVER_ERROR)
WRAP(ngx_int_t, ngx_http_discard_request_body, (ngx_http_request_t *r), (r),
     NGX_HTTP_INTERNAL_SERVER_ERROR)
WRAP(ngx_int_t, ngx_http_send_header, (ngx_http_request_t *r), (r), NGX_ERROR)
WRAP(ngx_int_t, ngx_http_send_special, (ngx_http_request_t *r,
     ngx_uint_t flags), (r, flags), NGX_ERROR)
WRAP(ngx_int_t, ngx_http_output_filter, (ngx_http_request_t *r,
     ngx_chain_t *in), (r, in), NGX_ERROR)
WRAP(ssize_t, ngx_read_file, (ngx_file_t *file, u_char *buf, size_t size,
     off_t offset), (file, buf, size, offset), NGX_ERROR)
WRAP(ngx_connection_t *, ngx_get_connection, (ngx_socket_t s, ngx_log_t *log),
     (s, log), NULL)
WRAP(int, ngx_nonblocking, (ngx_socket_t s), (s), (errno = EIO, -1))
WRAP(ngx_int_t, ngx_handle_read_event, (ngx_event_t *rev, ngx_uint_t flags),
     (rev, flags), NGX_ERROR)
KEEP(void, ngx_close_connection, (ngx_connection_t *c), (c))
KEEP(void, ngx_http_finalize_request, (ngx_http_request_t *r, ngx_int_t rc),
     (r, rc))
KEEP(void, ngx_http_core_run_phases, (ngx_http_request_t *r), (r))
KEEP(void, ngx_http_run_posted_requests, (ngx_connection_t *c), (c))


void test_ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...);


void
test_ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    u_char   buf[NGX_MAX_ERROR_STR], *p;
    va_list  args;

    wrap_free_of_lock("ngx_log_error_core");

    va_start(args, fmt);
    p = ngx_vslprintf(buf, buf + NGX_MAX_ERROR_STR, fmt, args);
    va_end(args);

    ngx_log_error_core(level, log, err, "%*s", (size_t) (p - buf), buf);
}


/* the system */

WRAP(int, stat64, (const char *path, struct stat64 *st), (path, st),
     (errno = EIO, -1))
WRAP(int, fstat64, (int fd, struct stat64 *st), (fd, st), (errno = EIO, -1))
WRAP(int, access, (const char *path, int mode), (path, mode),
     (errno = EIO, -1))
WRAP(int, posix_fallocate64, (int fd, off64_t offset, off64_t size),
     (fd, offset, size), EIO)
WRAP(int, pipe, (int fds[2]), (fds), (errno = EMFILE, -1))
WRAP(ssize_t, read, (int fd, void *buf, size_t size), (fd, buf, size),
     (errno = EIO, -1))
/* to a pipe with room */
KEEP(ssize_t, write, (int fd, const void *buf, size_t size), (fd, buf, size))
KEEP(int, close, (int fd), (fd))
KEEP(int, poll, (struct pollfd *fds, nfds_t n, int timeout), (fds, n, timeout))
KEEP(sighandler_t, signal, (int signo, sighandler_t handler),
     (signo, handler))
KEEP(int, clock_gettime, (clockid_t id, struct timespec *ts), (id, ts))
KEEP(void, qsort, (void *base, size_t n, size_t size,
     int (*cmp)(const void *, const void *)), (base, n, size, cmp))


int test_open64(const char *path, int flags, ...);
int test_fcntl64(int fd, int cmd, void *arg);


int
test_open64(const char *path, int flags, ...)
{
    int      mode;
    va_list  args;

    va_start(args, flags);
    mode = (flags & O_CREAT) ? va_arg(args, int) : 0;
    va_end(args);

    wrap_free_of_lock("open64");

    if (wrap_fails("open64")) {
        errno = EIO;
        return -1;
    }

    return open64(path, flags, mode);
}


/* with a pointer, if with anything */

int
test_fcntl64(int fd, int cmd, void *arg)
{
    wrap_free_of_lock("fcntl64");

    if (wrap_fails("fcntl64")) {
        errno = EIO;
        return -1;
    }

    return fcntl64(fd, cmd, arg);
}


/* threads */

WRAP(int, pthread_create, (pthread_t *tid, const pthread_attr_t *attr,
     void *(*start)(void *), void *data), (tid, attr, start, data), EAGAIN)
KEEP(int, pthread_join, (pthread_t tid, void **value), (tid, value))
KEEP(int, pthread_mutex_lock, (pthread_mutex_t *mutex), (mutex))
KEEP(int, pthread_cond_wait, (pthread_cond_t *cond, pthread_mutex_t *mutex),
     (cond, mutex))
KEEP(int, pthread_cond_timedwait, (pthread_cond_t *cond,
     pthread_mutex_t *mutex, const struct timespec *until),
     (cond, mutex, until))


/* OpenSSL */

WRAP(int, EVP_Digest, (const void *data, size_t n, unsigned char *md,
     unsigned int *size, const EVP_MD *type, ENGINE *e),
     (data, n, md, size, type, e), 0)
WRAP(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), (), NULL)
KEEP(void, EVP_CIPHER_CTX_free, (EVP_CIPHER_CTX *ctx), (ctx))
WRAP(int, EVP_CIPHER_CTX_ctrl, (EVP_CIPHER_CTX *ctx, int type, int arg,
     void *p), (ctx, type, arg, p), 0)
WRAP(int, EVP_CipherUpdate, (EVP_CIPHER_CTX *ctx, unsigned char *out, int *n,
     const unsigned char *in, int size), (ctx, out, n, in, size), 0)
WRAP(int, EVP_EncryptInit_ex, (EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher,
     ENGINE *e, const unsigned char *key, const unsigned char *iv),
     (ctx, cipher, e, key, iv), 0)
WRAP(int, EVP_EncryptUpdate, (EVP_CIPHER_CTX *ctx, unsigned char *out, int *n,
     const unsigned char *in, int size), (ctx, out, n, in, size), 0)
WRAP(int, EVP_EncryptFinal_ex, (EVP_CIPHER_CTX *ctx, unsigned char *out,
     int *n), (ctx, out, n), 0)
WRAP(int, EVP_DecryptInit_ex, (EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher,
     ENGINE *e, const unsigned char *key, const unsigned char *iv),
     (ctx, cipher, e, key, iv), 0)
WRAP(int, EVP_DecryptUpdate, (EVP_CIPHER_CTX *ctx, unsigned char *out, int *n,
     const unsigned char *in, int size), (ctx, out, n, in, size), 0)
WRAP(int, EVP_DecryptFinal_ex, (EVP_CIPHER_CTX *ctx, unsigned char *out,
     int *n), (ctx, out, n), 0)
WRAP(int, RAND_bytes, (unsigned char *buf, int n), (buf, n), 0)
KEEP(int, CRYPTO_memcmp, (const void *a, const void *b, size_t n), (a, b, n))


/* LMDB */

MORE(mdb_txn_begin, (MDB_env *env, MDB_txn *parent, unsigned int flags,
     MDB_txn **txn), (env, parent, flags, txn), txns, wrap_err(ENOMEM))
MORE(mdb_cursor_open, (MDB_txn *txn, MDB_dbi dbi, MDB_cursor **cursor),
     (txn, dbi, cursor), cursors, wrap_err(ENOMEM))
LESS(void, mdb_txn_abort, (MDB_txn *txn), (txn), txns)
LESS(void, mdb_cursor_close, (MDB_cursor *cursor), (cursor), cursors)

WRAP(int, mdb_txn_renew, (MDB_txn *txn), (txn), wrap_err(EIO))
WRAP(int, mdb_cursor_get, (MDB_cursor *cursor, MDB_val *key, MDB_val *data,
     MDB_cursor_op op), (cursor, key, data, op), wrap_err(EIO))
WRAP(int, mdb_get, (MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data),
     (txn, dbi, key, data), wrap_err(EIO))
WRAP(int, mdb_put, (MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data,
     unsigned int flags), (txn, dbi, key, data, flags), wrap_err(EIO))
WRAP(int, mdb_del, (MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data),
     (txn, dbi, key, data), wrap_err(EIO))
WRAP(int, mdb_drop, (MDB_txn *txn, MDB_dbi dbi, int del), (txn, dbi, del),
     wrap_err(EIO))
WRAP(int, mdb_dbi_open, (MDB_txn *txn, const char *name, unsigned int flags,
     MDB_dbi *dbi), (txn, name, flags, dbi), wrap_err(EIO))
WRAP(int, mdb_stat, (MDB_txn *txn, MDB_dbi dbi, MDB_stat *st), (txn, dbi, st),
     wrap_err(EIO))
WRAP(int, mdb_env_create, (MDB_env **env), (env), wrap_err(ENOMEM))
WRAP(int, mdb_env_open, (MDB_env *env, const char *path, unsigned int flags,
     mdb_mode_t mode), (env, path, flags, mode), wrap_err(EIO))
WRAP(int, mdb_env_stat, (MDB_env *env, MDB_stat *st), (env, st),
     wrap_err(EIO))
WRAP(int, mdb_env_info, (MDB_env *env, MDB_envinfo *info), (env, info),
     wrap_err(EIO))
WRAP(int, mdb_env_get_fd, (MDB_env *env, mdb_filehandle_t *fd), (env, fd),
     wrap_err(EIO))
WRAP(int, mdb_env_set_mapsize, (MDB_env *env, size_t size), (env, size),
     wrap_err(EIO))
WRAP(int, mdb_env_set_maxdbs, (MDB_env *env, MDB_dbi dbs), (env, dbs),
     wrap_err(EIO))
WRAP(int, mdb_env_set_maxreaders, (MDB_env *env, unsigned int readers),
     (env, readers), wrap_err(EIO))
WRAP(int, mdb_reader_check, (MDB_env *env, int *dead), (env, dead),
     wrap_err(EIO))
KEEP(void, mdb_env_close, (MDB_env *env), (env))
KEEP(void, mdb_txn_reset, (MDB_txn *txn), (txn))
KEEP(MDB_env *, mdb_txn_env, (MDB_txn *txn), (txn))
KEEP(size_t, mdb_txn_id, (MDB_txn *txn), (txn))
KEEP(char *, mdb_strerror, (int err), (err))


int test_mdb_txn_commit(MDB_txn *txn);


int
test_mdb_txn_commit(MDB_txn *txn)
{
    wrap_free_of_lock("mdb_txn_commit");
    wrap_count(&wrap->txns, -1);

    if (wrap_fails("mdb_txn_commit")) {
        mdb_txn_abort(txn);
        return wrap_err(EIO);
    }

    return mdb_txn_commit(txn);
}
