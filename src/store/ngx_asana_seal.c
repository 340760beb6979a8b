
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A secret at rest, AES-256-GCM:
 *
 *      1   version, 1
 *      4   id of the key, SHA-256(key) cut
 *     12   nonce, random
 *      n   ciphertext
 *     16   tag
 *
 * Authenticated with it, though not kept in it, is where it belongs:
 *
 *     zone | 0 | key | 0 | id of the secret | 1 if it is pending, else 0
 *
 * where zone and key are as in nginx.conf and the request: neither of them has
 * a zero byte.
 */


#include "ngx_asana_seal.h"

#include "ngx_asana_json.h"

#include <openssl/evp.h>
#include <openssl/rand.h>


#define NGX_ASANA_SEAL_VERSION  1
#define NGX_ASANA_SEAL_KEY      32
#define NGX_ASANA_SEAL_NONCE    12
#define NGX_ASANA_SEAL_TAG      16

#define NGX_ASANA_SEAL_HEAD                                                   \
    (1 + NGX_ASANA_SEAL_ID_LEN + NGX_ASANA_SEAL_NONCE)

/* bytes of a key file */
#define NGX_ASANA_SEAL_FILE     65536


typedef struct {
    u_char                  id[NGX_ASANA_SEAL_ID_LEN];
    u_char                  key[NGX_ASANA_SEAL_KEY];
} ngx_asana_seal_key_t;


struct ngx_asana_seal_s {
    ngx_uint_t              n;
    ngx_asana_seal_key_t    keys[1];
};


static ssize_t ngx_asana_seal_read(ngx_str_t *file, u_char *buf,
    ngx_log_t *log);
static ngx_asana_seal_t *ngx_asana_seal_parse(ngx_pool_t *pool, u_char *p,
    u_char *last, ngx_uint_t *line, ngx_log_t *log);
static ngx_int_t ngx_asana_seal_parse_key(ngx_asana_seal_key_t *key,
    u_char *p);
static void ngx_asana_seal_cleanup(void *data);
static ngx_asana_seal_key_t *ngx_asana_seal_find(ngx_asana_seal_t *seal,
    u_char *key_id);
static ngx_int_t ngx_asana_seal_bind(EVP_CIPHER_CTX *ctx,
    ngx_asana_seal_place_t *place);


ngx_asana_seal_t *
ngx_asana_seal_open(ngx_pool_t *pool, ngx_str_t *file, ngx_log_t *log)
{
    u_char            *buf;
    ssize_t            n;
    ngx_uint_t         line;
    ngx_asana_seal_t  *seal;

    buf = ngx_alloc(NGX_ASANA_SEAL_FILE, log);
    if (buf == NULL) {
        return NULL;
    }

    seal = NULL;
    n = ngx_asana_seal_read(file, buf, log);

    if (n != NGX_ERROR) {
        line = 0;
        seal = ngx_asana_seal_parse(pool, buf, buf + n, &line, log);

        if (seal == NULL) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "asana_hook: \"encryption_key\" file \"%V\" is "
                          "not usable at line %ui; each line is a key of 64 "
                          "hex digits, \"openssl rand -hex 32\" makes one",
                          file, line);
        }
    }

    ngx_explicit_memzero(buf, NGX_ASANA_SEAL_FILE);
    ngx_free(buf);

    return seal;
}


static ssize_t
ngx_asana_seal_read(ngx_str_t *file, u_char *buf, ngx_log_t *log)
{
    ssize_t          n, size;
    ngx_fd_t         fd;
    ngx_file_info_t  fi;

    size = NGX_ERROR;

    fd = ngx_open_file(file->data, NGX_FILE_RDONLY | NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE || ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "asana_hook: \"encryption_key\" file \"%V\" cannot be "
                      "opened", file);
        goto done;
    }

    if (!ngx_is_file(&fi) || (fi.st_mode & 077)) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "asana_hook: \"encryption_key\" file \"%V\" must be a "
                      "regular file that its owner alone may read; say "
                      "\"chmod 600\"", file);
        goto done;
    }

    for (size = 0; size < NGX_ASANA_SEAL_FILE; size += n) {
        n = ngx_read_fd(fd, buf + size, NGX_ASANA_SEAL_FILE - size);

        if (n == 0) {
            goto done;
        }

        if (n == -1) {
            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                          "asana_hook: \"encryption_key\" file \"%V\" cannot "
                          "be read", file);
            size = NGX_ERROR;
            goto done;
        }
    }

    ngx_log_error(NGX_LOG_EMERG, log, 0,
                  "asana_hook: \"encryption_key\" file \"%V\" is too large",
                  file);
    size = NGX_ERROR;

done:

    if (fd != NGX_INVALID_FILE) {
        (void) ngx_close_file(fd);
    }

    return size;
}


static ngx_asana_seal_t *
ngx_asana_seal_parse(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_uint_t *line, ngx_log_t *log)
{
    size_t               size;
    u_char              *end;
    ngx_asana_seal_t    *seal;
    ngx_pool_cleanup_t  *cln;

    size = sizeof(ngx_asana_seal_t)
           + (last - p) / (2 * NGX_ASANA_SEAL_KEY)
             * sizeof(ngx_asana_seal_key_t);

    cln = ngx_pool_cleanup_add(pool, size);
    if (cln == NULL) {
        return NULL;
    }

    seal = cln->data;
    seal->n = 0;
    cln->handler = ngx_asana_seal_cleanup;

    while (p < last) {

        (*line)++;

        end = ngx_strlchr(p, last, LF);
        end = end ? end : last;

        if (end - p == 2 * NGX_ASANA_SEAL_KEY
            && ngx_asana_seal_parse_key(&seal->keys[seal->n], p) == NGX_OK)
        {
            seal->n++;

        } else if (end != p) {
            return NULL;
        }

        p = end + 1;
    }

    return seal->n ? seal : NULL;
}


static ngx_int_t
ngx_asana_seal_parse_key(ngx_asana_seal_key_t *key, u_char *p)
{
    ngx_int_t      n;
    ngx_uint_t     i;
    u_char         md[EVP_MAX_MD_SIZE];

    for (i = 0; i < NGX_ASANA_SEAL_KEY; i++) {

        n = ngx_hextoi(p + 2 * i, 2);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        key->key[i] = (u_char) n;
    }

    if (EVP_Digest(key->key, NGX_ASANA_SEAL_KEY, md, NULL, EVP_sha256(), NULL)
        != 1)
    {
        return NGX_ERROR;
    }

    ngx_memcpy(key->id, md, NGX_ASANA_SEAL_ID_LEN);

    return NGX_OK;
}


static void
ngx_asana_seal_cleanup(void *data)
{
    ngx_asana_seal_t *seal = data;

    /* also one that was not completed */

    ngx_explicit_memzero(seal->keys,
                         (seal->n + 1) * sizeof(ngx_asana_seal_key_t));
}


size_t
ngx_asana_seal_encrypt(ngx_asana_seal_t *seal, ngx_asana_seal_place_t *place,
    u_char *secret, size_t len, u_char *buf)
{
    int                    n;
    size_t                 size;
    u_char                *p, *nonce;
    EVP_CIPHER_CTX        *ctx;
    ngx_asana_seal_key_t  *key;

    key = seal->keys;

    *buf = NGX_ASANA_SEAL_VERSION;
    nonce = ngx_cpymem(buf + 1, key->id, NGX_ASANA_SEAL_ID_LEN);
    p = buf + NGX_ASANA_SEAL_HEAD;

    size = 0;
    ctx = EVP_CIPHER_CTX_new();

    if (ctx
        && RAND_bytes(nonce, NGX_ASANA_SEAL_NONCE) == 1
        && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->key, nonce)
           == 1
        && ngx_asana_seal_bind(ctx, place) == NGX_OK
        && EVP_EncryptUpdate(ctx, p, &n, secret, (int) len) == 1
        && EVP_EncryptFinal_ex(ctx, p + len, &n) == 1
        && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, NGX_ASANA_SEAL_TAG,
                               p + len)
           == 1)
    {
        size = NGX_ASANA_SEAL_OVERHEAD + len;
    }

    EVP_CIPHER_CTX_free(ctx);

    return size;
}


ngx_int_t
ngx_asana_seal_decrypt(ngx_asana_seal_t *seal, ngx_asana_seal_place_t *place,
    u_char *sealed, size_t size, u_char *secret, size_t *len)
{
    int                    n;
    u_char                *p;
    ngx_int_t              rc;
    EVP_CIPHER_CTX        *ctx;
    ngx_asana_seal_key_t  *key;

    if (size <= NGX_ASANA_SEAL_OVERHEAD
        || size > NGX_ASANA_SEAL_MAX
        || *sealed != NGX_ASANA_SEAL_VERSION)
    {
        return NGX_ERROR;
    }

    key = ngx_asana_seal_find(seal, sealed + 1);

    if (key == NULL) {
        return NGX_DECLINED;
    }

    p = sealed + NGX_ASANA_SEAL_HEAD;
    *len = size - NGX_ASANA_SEAL_OVERHEAD;

    rc = NGX_ERROR;
    ctx = EVP_CIPHER_CTX_new();

    if (ctx
        && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->key,
                              p - NGX_ASANA_SEAL_NONCE)
           == 1
        && ngx_asana_seal_bind(ctx, place) == NGX_OK
        && EVP_DecryptUpdate(ctx, secret, &n, p, (int) *len) == 1
        && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, NGX_ASANA_SEAL_TAG,
                               p + *len)
           == 1
        && EVP_DecryptFinal_ex(ctx, secret + *len, &n) == 1)
    {
        rc = NGX_OK;

    } else {

        /* it is there already, and is not to be believed */

        ngx_explicit_memzero(secret, *len);
    }

    EVP_CIPHER_CTX_free(ctx);

    return rc;
}


static ngx_int_t
ngx_asana_seal_bind(EVP_CIPHER_CTX *ctx, ngx_asana_seal_place_t *place)
{
    int      n;
    u_char  *p, buf[NGX_ASANA_MAX_KEY + 256];

    /* names of zones are short, and whatever is longer is not cut */

    if (place->zone.len + place->key.len + NGX_ASANA_ID_LEN + 3 > sizeof(buf))
    {
        return NGX_ERROR;
    }

    p = ngx_cpymem(buf, place->zone.data, place->zone.len);
    *p++ = '\0';
    p = ngx_cpymem(p, place->key.data, place->key.len);
    *p++ = '\0';
    p = ngx_cpymem(p, place->id, NGX_ASANA_ID_LEN);
    *p++ = place->pending ? 1 : 0;

    /* no output means that it is not encrypted */

    return (EVP_CipherUpdate(ctx, NULL, &n, buf, (int) (p - buf)) == 1)
           ? NGX_OK : NGX_ERROR;
}


static ngx_asana_seal_key_t *
ngx_asana_seal_find(ngx_asana_seal_t *seal, u_char *key_id)
{
    ngx_uint_t  i;

    for (i = 0; i < seal->n; i++) {
        if (ngx_memcmp(seal->keys[i].id, key_id, NGX_ASANA_SEAL_ID_LEN) == 0) {
            return &seal->keys[i];
        }
    }

    return NULL;
}


void
ngx_asana_seal_complain(ngx_asana_seal_place_t *place, ngx_int_t rc,
    u_char *key_id, ngx_log_t *log)
{
    size_t     n;
    u_char     buf[6 * NGX_ASANA_MAX_KEY], id[2 * NGX_ASANA_SEAL_ID_LEN];
    ngx_str_t  key;

    key.len = ngx_asana_json_escape(buf, &place->key);
    key.data = buf;

    if (rc == NGX_DECLINED) {
        n = ngx_hex_dump(id, key_id, NGX_ASANA_SEAL_ID_LEN) - id;

        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: zone \"%V\": a secret of key \"%V\" is "
                      "encrypted by key %*s, which \"encryption_key\" does "
                      "not have; add it to that file",
                      &place->zone, &key, n, id);
        return;
    }

    ngx_log_error(NGX_LOG_CRIT, log, 0,
                  "asana_hook: zone \"%V\": a secret of key \"%V\" was "
                  "changed in the store by somebody else, and is not "
                  "believed; revoke it", &place->zone, &key);
}


u_char *
ngx_asana_seal_key_id(ngx_asana_seal_t *seal, ngx_uint_t i)
{
    return (i < seal->n) ? seal->keys[i].id : NULL;
}


ngx_uint_t
ngx_asana_seal_old(ngx_asana_seal_t *seal, u_char *sealed)
{
    ngx_asana_seal_key_t  *key;

    key = ngx_asana_seal_find(seal, sealed + 1);

    return key && key != seal->keys;
}


void
ngx_asana_seal_usage(ngx_asana_seal_t *seal, ngx_asana_seal_usage_t *usage)
{
    ngx_uint_t  i;

    ngx_memzero(usage, sizeof(ngx_asana_seal_usage_t));

    for (i = 0; i < seal->n; i++) {
        ngx_asana_seal_count(usage, seal->keys[i].id, 0);
    }
}


void
ngx_asana_seal_count(ngx_asana_seal_usage_t *usage, u_char *key_id, int64_t n)
{
    ngx_uint_t              i;
    ngx_asana_seal_used_t  *used;

    for (i = 0; i < usage->n; i++) {
        if (ngx_memcmp(usage->keys[i].id, key_id, NGX_ASANA_SEAL_ID_LEN) == 0)
        {
            break;
        }
    }

    if (i == NGX_ASANA_SEAL_USED) {
        return;
    }

    used = &usage->keys[i];

    if (i == usage->n) {
        usage->n++;
        ngx_memcpy(used->id, key_id, NGX_ASANA_SEAL_ID_LEN);
    }

    /* a store that was repaired by hand may have been counted wrong */

    used->secrets += ngx_max(n, - (int64_t) used->secrets);
}


uint64_t
ngx_asana_seal_left(ngx_asana_seal_usage_t *usage)
{
    uint64_t    n;
    ngx_uint_t  i;

    n = 0;

    for (i = 1; i < usage->n; i++) {
        n += usage->keys[i].secrets;
    }

    return n;
}
