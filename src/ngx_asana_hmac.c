
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_hmac.h"

/*
 * EVP_MAC takes 2,200 instructions for an HMAC, and HMAC_Init_ex() 8,100, most
 * of them for memory: the hash itself is called, of which all versions of
 * OpenSSL and its relatives have this interface.
 */

#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>


#define NGX_ASANA_HMAC_READ_SIZE  32768

/* bytes that are hashed while the next ones are fetched */
#define NGX_ASANA_HMAC_BLOCK      1024

#define NGX_ASANA_HMAC_EVENT      "{\"events\":[{"

/* RFC 2104 */
#define NGX_ASANA_HMAC_IPAD       0x36
#define NGX_ASANA_HMAC_OPAD       0x5c


#if (__GNUC__)
#define ngx_asana_hmac_prefetch(p)  __builtin_prefetch(p)
#else
#define ngx_asana_hmac_prefetch(p)
#endif


/* wiped as a whole */

typedef struct {
    SHA256_CTX   sha;
    u_char       key[SHA256_CBLOCK];
    u_char       inner[SHA256_CBLOCK];
    u_char       outer[SHA256_CBLOCK + SHA256_DIGEST_LENGTH];
} ngx_asana_hmac_work_t;


/* NGX_OK: go on, NGX_DONE: enough was seen, NGX_ERROR */

typedef ngx_int_t (*ngx_asana_hmac_piece_pt)(void *data, u_char *p,
    size_t len);


static void ngx_asana_hmac_digest(u_char *p, size_t len, u_char *digest);
static ngx_int_t ngx_asana_hmac_walk(ngx_chain_t *body, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data);
static ngx_int_t ngx_asana_hmac_walk_file(ngx_buf_t *b, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data);
static ngx_int_t ngx_asana_hmac_piece(void *data, u_char *p, size_t len);
static ngx_int_t ngx_asana_hmac_scan_piece(void *data, u_char *p, size_t len);


/* the tokens of a heartbeat; a space stands for any white space */

static u_char  ngx_asana_hmac_empty[] = " { \"events\" : [ ] } ";


ngx_int_t
ngx_asana_hmac(ngx_asana_secret_t *s, ngx_chain_t *body, ngx_pool_t *pool,
    u_char *mac)
{
    ngx_int_t              rc;
    ngx_uint_t             i;
    ngx_asana_hmac_work_t  k;

    ngx_memzero(k.key, SHA256_CBLOCK);

    if (s->len > SHA256_CBLOCK) {
        ngx_asana_hmac_digest(s->data, s->len, k.key);

    } else {
        ngx_memcpy(k.key, s->data, s->len);
    }

    for (i = 0; i < SHA256_CBLOCK; i++) {
        k.inner[i] = k.key[i] ^ NGX_ASANA_HMAC_IPAD;
        k.outer[i] = k.key[i] ^ NGX_ASANA_HMAC_OPAD;
    }

    (void) SHA256_Init(&k.sha);
    (void) SHA256_Update(&k.sha, k.inner, SHA256_CBLOCK);

    rc = ngx_asana_hmac_walk(body, pool, ngx_asana_hmac_piece, &k.sha);

    (void) SHA256_Final(k.outer + SHA256_CBLOCK, &k.sha);

    (void) SHA256_Init(&k.sha);
    (void) SHA256_Update(&k.sha, k.outer, sizeof(k.outer));
    (void) SHA256_Final(mac, &k.sha);

    ngx_explicit_memzero(&k, sizeof(ngx_asana_hmac_work_t));

    return rc;
}


static ngx_int_t
ngx_asana_hmac_piece(void *data, u_char *p, size_t len)
{
    SHA256_CTX *sha = data;

    size_t      n;
    ngx_uint_t  i;

    /*
     * A large body has left the processor's cache; what is hashed next is
     * fetched meanwhile, which the processor does not do well by itself.
     */

    for ( /* void */ ; len; p += n, len -= n) {

        n = ngx_min(len, NGX_ASANA_HMAC_BLOCK);

        for (i = n; i < ngx_min(len, 2 * NGX_ASANA_HMAC_BLOCK); i += 64) {
            ngx_asana_hmac_prefetch(p + i);
        }

        (void) SHA256_Update(sha, p, n);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_asana_hmac_walk(ngx_chain_t *body, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = body; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            rc = piece(data, b->pos, b->last - b->pos);

        } else if (b->in_file) {
            rc = ngx_asana_hmac_walk_file(b, pool, piece, data);

        } else {
            rc = NGX_OK;
        }

        if (rc != NGX_OK) {
            return (rc == NGX_DONE) ? NGX_OK : rc;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_asana_hmac_walk_file(ngx_buf_t *b, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data)
{
    off_t       offset;
    size_t      size;
    u_char     *p;
    ssize_t     n;
    ngx_int_t   rc;

    p = ngx_palloc(pool, NGX_ASANA_HMAC_READ_SIZE);
    if (p == NULL) {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    for (offset = b->file_pos; offset < b->file_last; offset += n) {

        size = (size_t) ngx_min(b->file_last - offset,
                                NGX_ASANA_HMAC_READ_SIZE);

        n = ngx_read_file(b->file, p, size, offset);

        if (n <= 0) {
            ngx_log_error(NGX_LOG_CRIT, pool->log, 0,
                          "asana_hook: the body in \"%V\" ends at %O of %O",
                          &b->file->name, offset, b->file_last);
            rc = NGX_ERROR;
            break;
        }

        rc = piece(data, p, n);

        if (rc != NGX_OK) {
            break;
        }
    }

    (void) ngx_pfree(pool, p);

    return rc;
}


void
ngx_asana_hmac_id(u_char *secret, size_t len, u_char *id)
{
    u_char  digest[SHA256_DIGEST_LENGTH];

    ngx_asana_hmac_digest(secret, len, digest);

    ngx_memcpy(id, digest, NGX_ASANA_ID_LEN);
    ngx_explicit_memzero(digest, SHA256_DIGEST_LENGTH);
}


static void
ngx_asana_hmac_digest(u_char *p, size_t len, u_char *digest)
{
    SHA256_CTX  sha;

    (void) SHA256_Init(&sha);
    (void) SHA256_Update(&sha, p, len);
    (void) SHA256_Final(digest, &sha);

    ngx_explicit_memzero(&sha, sizeof(SHA256_CTX));
}


/* values of hex digits, and a mark that nothing else has */

static uint16_t  ngx_asana_hmac_hex[256] = {
    ['0'] = 0x100, 0x101, 0x102, 0x103, 0x104,
            0x105, 0x106, 0x107, 0x108, 0x109,
    ['A'] = 0x10a, 0x10b, 0x10c, 0x10d, 0x10e, 0x10f,
    ['a'] = 0x10a, 0x10b, 0x10c, 0x10d, 0x10e, 0x10f
};

/* those of both digits of a byte */
#define NGX_ASANA_HMAC_MARKS  0x1100


ngx_int_t
ngx_asana_hmac_parse(ngx_str_t *value, u_char *mac)
{
    u_char      *p;
    uint32_t     byte, marks;
    ngx_uint_t   i;

    if (value->len != 2 * NGX_ASANA_MAC_LEN) {
        return NGX_DECLINED;
    }

    p = value->data;
    marks = NGX_ASANA_HMAC_MARKS;

    for (i = 0; i < NGX_ASANA_MAC_LEN; i++) {
        byte = (uint32_t) ngx_asana_hmac_hex[p[2 * i]] << 4
               | ngx_asana_hmac_hex[p[2 * i + 1]];

        marks &= byte;
        mac[i] = (u_char) byte;
    }

    return (marks == NGX_ASANA_HMAC_MARKS) ? NGX_OK : NGX_DECLINED;
}


ngx_uint_t
ngx_asana_hmac_equal(u_char *one, u_char *two)
{
    uint64_t    a[NGX_ASANA_MAC_LEN / 8], b[NGX_ASANA_MAC_LEN / 8], diff;
    ngx_uint_t  i;

    ngx_memcpy(a, one, NGX_ASANA_MAC_LEN);
    ngx_memcpy(b, two, NGX_ASANA_MAC_LEN);

    diff = 0;

    for (i = 0; i < NGX_ASANA_MAC_LEN / 8; i++) {
        diff |= a[i] ^ b[i];
    }

    return diff == 0;
}


ngx_int_t
ngx_asana_hmac_heartbeat(ngx_chain_t *body, ngx_pool_t *pool)
{
    u_char     *want;
    ngx_buf_t  *b;

    /* events begin like this, and are most of what comes */

    b = body ? body->buf : NULL;

    if (b
        && ngx_buf_in_memory(b)
        && b->last - b->pos >= (ssize_t) sizeof(NGX_ASANA_HMAC_EVENT) - 1
        && ngx_memcmp(b->pos, NGX_ASANA_HMAC_EVENT,
                      sizeof(NGX_ASANA_HMAC_EVENT) - 1)
           == 0)
    {
        return NGX_DECLINED;
    }

    want = ngx_asana_hmac_empty;

    if (ngx_asana_hmac_walk(body, pool, ngx_asana_hmac_scan_piece, &want)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* all tokens were met, and nothing but white space behind them */

    return (want && want[1] == '\0') ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_asana_hmac_scan_piece(void *data, u_char *p, size_t len)
{
    u_char **want = data;

    u_char  *last;

    for (last = p + len; p < last; p++) {

        if (**want == ' ') {

            if (*p == ' ' || *p == '\t' || *p == CR || *p == LF) {
                continue;
            }

            (*want)++;
        }

        if (*p != **want || *p == '\0') {
            *want = NULL;
            return NGX_DONE;
        }

        (*want)++;
    }

    return NGX_OK;
}
