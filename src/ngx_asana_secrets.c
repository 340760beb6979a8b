
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_secrets.h"

#include <openssl/crypto.h>


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


ngx_int_t
ngx_asana_secrets_append(ngx_asana_secrets_t *secrets,
    ngx_asana_secrets_t *other)
{
    if (other->size == 0) {
        return NGX_OK;
    }

    if (ngx_asana_secrets_reserve(secrets, secrets->size + other->size)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_memcpy(secrets->start + secrets->size, other->start, other->size);

    secrets->size += other->size;
    secrets->n += other->n;

    return NGX_OK;
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
ngx_asana_secrets_settle_one(ngx_asana_secret_t *s, time_t now)
{
    ngx_uint_t  ahead;

    ahead = (ngx_asana_secret_seen(s) > now);

    s->created = ngx_min(s->created, now);
    s->verified = ngx_min(s->verified, now);
    s->answered = ngx_min(s->answered, now);
    s->failing = ngx_min(s->failing, now);

    return ahead;
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

        if (ngx_asana_secrets_settle_one(s, now)) {
            ahead = 1;
            s->serial = 0;
        }

        if (s->pending && now - s->created >= pending) {
            ngx_asana_secrets_remove(secrets, s);
            continue;
        }

        s = ngx_asana_secret_next(s);
    }

    return ahead;
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
