
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The value of a key in a store, format 2.  Integers are unsigned and
 * big-endian:
 *
 *     1   version, 2
 *
 *     and for each secret, at most 2000 of them:
 *
 *     8   id, SHA-256(secret) cut, each only once
 *     8   serial
 *     8   created, seconds of the epoch as all times, up to 9999-12-31
 *     8   verified, 0 if never
 *     8   answered, 0 if never
 *     8   failing, 0 if it is not
 *     2   code
 *     1   flags: 1 pending, no other is known
 *     1   length of the gid, 0 to 32
 *     2   length of the secret, 16 to 255
 *     n   the gid
 *     n   the secret
 *
 * A pending secret that came in 2023 is:
 *
 *     02  9f9f5111f7b27a78 0000000000000001 000000006553f100 0000000000000000
 *         0000000000000000 0000000000000000 0000 01 00 0010
 *         "0123456789abcdef"
 */


#include "ngx_asana_secrets.h"

#include <openssl/crypto.h>


#define NGX_ASANA_SECRETS_VERSION   2
#define NGX_ASANA_SECRETS_RECORD    54
#define NGX_ASANA_SECRETS_PENDING   1

/* those pending come on top of "max_secrets" */
#define NGX_ASANA_SECRETS_MAX       2000

/* 9999-12-31T23:59:59Z: ages are differences, which are not to overflow */
#define NGX_ASANA_SECRETS_MAX_TIME  253402300799ULL


static ngx_int_t ngx_asana_secrets_record(ngx_asana_secrets_t *secrets,
    u_char **pos, u_char *last);
static u_char *ngx_asana_secrets_put(u_char *p, uint64_t n, size_t size);
static uint64_t ngx_asana_secrets_get(u_char *p, size_t size);


void
ngx_asana_secrets_init(ngx_asana_secrets_t *secrets, u_char *buf, size_t size)
{
    secrets->start = buf;
    secrets->size = 0;
    secrets->capacity = size;
    secrets->n = 0;
    secrets->allocated = 0;
}


void
ngx_asana_secrets_wipe(ngx_asana_secrets_t *secrets)
{
    if (secrets->size) {
        ngx_explicit_memzero(secrets->start, secrets->size);
    }

    secrets->size = 0;
    secrets->n = 0;

    if (secrets->allocated) {
        ngx_free(secrets->start);
        ngx_asana_secrets_init(secrets, NULL, 0);
    }
}


ngx_int_t
ngx_asana_secrets_reserve(ngx_asana_secrets_t *secrets, size_t size)
{
    u_char               *p;
    ngx_asana_secrets_t   old;

    if (size <= secrets->capacity) {
        return NGX_OK;
    }

    p = ngx_alloc(size, ngx_cycle->log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    old = *secrets;

    ngx_asana_secrets_init(secrets, p, size);
    secrets->allocated = 1;

    if (old.size) {
        ngx_memcpy(p, old.start, old.size);
        secrets->size = old.size;
        secrets->n = old.n;
    }

    ngx_asana_secrets_wipe(&old);

    return NGX_OK;
}


ngx_asana_secret_t *
ngx_asana_secrets_push(ngx_asana_secrets_t *secrets, size_t len)
{
    size_t               size;
    ngx_asana_secret_t  *s;

    size = ngx_asana_secret_size(len);

    if (size > secrets->capacity - secrets->size
        && ngx_asana_secrets_reserve(secrets, 2 * (secrets->size + size))
           != NGX_OK)
    {
        return NULL;
    }

    s = (ngx_asana_secret_t *) (secrets->start + secrets->size);

    ngx_memzero(s, size);
    s->len = (u_char) len;

    secrets->size += size;
    secrets->n++;

    return s;
}


void
ngx_asana_secrets_remove(ngx_asana_secrets_t *secrets, ngx_asana_secret_t *s)
{
    size_t   size;
    u_char  *next;

    size = ngx_asana_secret_size(s->len);
    next = (u_char *) s + size;

    secrets->size -= size;
    secrets->n--;

    ngx_memmove(s, next, secrets->start + secrets->size - (u_char *) s);
    ngx_explicit_memzero(secrets->start + secrets->size, size);
}


ngx_asana_secret_t *
ngx_asana_secrets_by_id(ngx_asana_secrets_t *secrets, u_char *id)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        if (ngx_memcmp(s->id, id, NGX_ASANA_ID_LEN) == 0) {
            return s;
        }

        s = ngx_asana_secret_next(s);
    }

    return NULL;
}


ngx_asana_secret_t *
ngx_asana_secrets_by_text(ngx_asana_secrets_t *secrets, u_char *text,
    size_t len)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        if (s->len == len && CRYPTO_memcmp(s->data, text, len) == 0) {
            return s;
        }

        s = ngx_asana_secret_next(s);
    }

    return NULL;
}


ngx_uint_t
ngx_asana_secrets_settle(ngx_asana_secrets_t *secrets, time_t now,
    time_t pending)
{
    ngx_uint_t           ahead, i, n;
    ngx_asana_secret_t  *s;

    ahead = 0;
    n = secrets->n;
    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < n; i++) {

        if (ngx_asana_secret_seen(s) > now) {
            ahead = 1;
            s->serial = 0;
        }

        s->created = ngx_min(s->created, now);
        s->verified = ngx_min(s->verified, now);
        s->answered = ngx_min(s->answered, now);
        s->failing = ngx_min(s->failing, now);

        if (s->pending && now - s->created >= pending) {
            ngx_asana_secrets_remove(secrets, s);
            continue;
        }

        s = ngx_asana_secret_next(s);
    }

    return ahead;
}


size_t
ngx_asana_secrets_encoded_size(ngx_asana_secrets_t *secrets)
{
    size_t               size;
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    size = 1;
    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {
        size += NGX_ASANA_SECRETS_RECORD + s->gid_len + s->len;
        s = ngx_asana_secret_next(s);
    }

    return size;
}


void
ngx_asana_secrets_encode(ngx_asana_secrets_t *secrets, u_char *buf)
{
    u_char              *p;
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    p = buf;
    *p++ = NGX_ASANA_SECRETS_VERSION;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        p = ngx_cpymem(p, s->id, NGX_ASANA_ID_LEN);
        p = ngx_asana_secrets_put(p, s->serial, 8);
        p = ngx_asana_secrets_put(p, s->created, 8);
        p = ngx_asana_secrets_put(p, s->verified, 8);
        p = ngx_asana_secrets_put(p, s->answered, 8);
        p = ngx_asana_secrets_put(p, s->failing, 8);
        p = ngx_asana_secrets_put(p, s->code, 2);
        *p++ = s->pending ? NGX_ASANA_SECRETS_PENDING : 0;
        *p++ = s->gid_len;
        p = ngx_asana_secrets_put(p, s->len, 2);
        p = ngx_cpymem(p, s->gid, s->gid_len);
        p = ngx_cpymem(p, s->data, s->len);

        s = ngx_asana_secret_next(s);
    }
}


ngx_int_t
ngx_asana_secrets_decode(ngx_asana_secrets_t *secrets, u_char *p, size_t len)
{
    size_t      size;
    u_char     *last;
    ngx_int_t   rc;
    ngx_uint_t  n;

    if (len == 0 || *p != NGX_ASANA_SECRETS_VERSION) {
        return NGX_DECLINED;
    }

    n = secrets->n;
    size = secrets->size;

    last = p++ + len;
    rc = NGX_OK;

    while (p < last && rc == NGX_OK) {
        rc = (secrets->n - n < NGX_ASANA_SECRETS_MAX)
             ? ngx_asana_secrets_record(secrets, &p, last) : NGX_DECLINED;
    }

    if (rc != NGX_OK && secrets->size > size) {
        ngx_explicit_memzero(secrets->start + size, secrets->size - size);
        secrets->size = size;
        secrets->n = n;
    }

    return rc;
}


static ngx_int_t
ngx_asana_secrets_record(ngx_asana_secrets_t *secrets, u_char **pos,
    u_char *last)
{
    size_t               len, gid_len;
    u_char              *p;
    uint64_t             times[4];
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    p = *pos;

    if (last - p < NGX_ASANA_SECRETS_RECORD) {
        return NGX_DECLINED;
    }

    for (i = 0; i < 4; i++) {
        times[i] = ngx_asana_secrets_get(p + 16 + 8 * i, 8);

        if (times[i] > NGX_ASANA_SECRETS_MAX_TIME) {
            return NGX_DECLINED;
        }
    }

    gid_len = p[51];
    len = (size_t) ngx_asana_secrets_get(p + 52, 2);

    if ((p[50] & ~NGX_ASANA_SECRETS_PENDING)
        || gid_len > NGX_ASANA_MAX_GID
        || len < NGX_ASANA_MIN_SECRET
        || len > NGX_ASANA_MAX_SECRET
        || (size_t) (last - p) < NGX_ASANA_SECRETS_RECORD + gid_len + len
        || ngx_asana_secrets_by_id(secrets, p))
    {
        return NGX_DECLINED;
    }

    s = ngx_asana_secrets_push(secrets, len);
    if (s == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(s->id, p, NGX_ASANA_ID_LEN);

    s->serial = ngx_asana_secrets_get(p + 8, 8);
    s->created = (time_t) times[0];
    s->verified = (time_t) times[1];
    s->answered = (time_t) times[2];
    s->failing = (time_t) times[3];
    s->stored = s->verified;
    s->code = (uint16_t) ngx_asana_secrets_get(p + 48, 2);
    s->pending = p[50];
    s->gid_len = (u_char) gid_len;

    p += NGX_ASANA_SECRETS_RECORD;

    ngx_memcpy(s->gid, p, gid_len);
    ngx_memcpy(s->data, p + gid_len, len);

    *pos = p + gid_len + len;

    return NGX_OK;
}


ngx_int_t
ngx_asana_secrets_check(u_char *text, size_t len)
{
    size_t  i;

    if (len < NGX_ASANA_MIN_SECRET || len > NGX_ASANA_MAX_SECRET) {
        return NGX_DECLINED;
    }

    for (i = 0; i < len; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


static u_char *
ngx_asana_secrets_put(u_char *p, uint64_t n, size_t size)
{
    while (size--) {
        *p++ = (u_char) (n >> 8 * size);
    }

    return p;
}


static uint64_t
ngx_asana_secrets_get(u_char *p, size_t size)
{
    uint64_t  n;

    n = 0;

    while (size--) {
        n = n << 8 | *p++;
    }

    return n;
}
