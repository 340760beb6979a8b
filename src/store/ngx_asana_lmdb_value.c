
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The value of a key in the store.  Integers are unsigned and big-endian:
 *
 *     1   version: 2, or 3 if secrets are sealed
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
 *     2   length of the secret, 16 to 255; sealed it has 33 bytes more
 *     n   the gid
 *     n   the secret, or what ngx_asana_seal.c makes of it
 *
 * A pending secret that came in 2023 is, in clear:
 *
 *     02  9f9f5111f7b27a78 0000000000000001 000000006553f100 0000000000000000
 *         0000000000000000 0000000000000000 0000 01 00 0010
 *         "0123456789abcdef"
 */


#include "ngx_asana_lmdb_value.h"


#define NGX_ASANA_LMDB_VALUE_CLEAR     2
#define NGX_ASANA_LMDB_VALUE_SEALED    3
#define NGX_ASANA_LMDB_VALUE_RECORD    54
#define NGX_ASANA_LMDB_VALUE_PENDING   1

/* those pending come on top of "max_secrets" */
#define NGX_ASANA_LMDB_VALUE_MAX       2000

/* 9999-12-31T23:59:59Z: ages are differences, which are not to overflow */
#define NGX_ASANA_LMDB_VALUE_MAX_TIME  253402300799ULL


/* a secret in a value */

typedef struct {
    u_char      *p;
    u_char      *text;      /* sealed or not */
    size_t       len;       /* of it */
    u_char       gid_len;
    u_char       pending;
} ngx_asana_lmdb_record_t;


static ngx_int_t ngx_asana_lmdb_value_record(ngx_asana_lmdb_value_t *v,
    u_char **pos, u_char *last, ngx_asana_lmdb_record_t *record);
static ngx_int_t ngx_asana_lmdb_value_push(ngx_asana_lmdb_value_t *v,
    ngx_asana_secrets_t *secrets, ngx_asana_lmdb_record_t *record);
static size_t ngx_asana_lmdb_value_seal(ngx_asana_lmdb_value_t *v,
    ngx_asana_secret_t *s, ngx_asana_secrets_t *old, ngx_str_t *value,
    u_char *buf);
static ngx_uint_t ngx_asana_lmdb_value_find(ngx_asana_lmdb_value_t *v,
    ngx_asana_secret_t *s, ngx_str_t *value, ngx_asana_lmdb_record_t *record);
static u_char *ngx_asana_lmdb_value_put(u_char *p, uint64_t n, size_t size);
static uint64_t ngx_asana_lmdb_value_get(u_char *p, size_t size);


size_t
ngx_asana_lmdb_value_size(ngx_asana_secrets_t *secrets)
{
    return 1 + secrets->n * (NGX_ASANA_LMDB_VALUE_RECORD + NGX_ASANA_MAX_GID
                             + NGX_ASANA_SEAL_MAX);
}


size_t
ngx_asana_lmdb_value_encode(ngx_asana_lmdb_value_t *v,
    ngx_asana_secrets_t *secrets, ngx_asana_secrets_t *old, ngx_str_t *value,
    u_char *buf)
{
    size_t               len;
    u_char              *p, *length;
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    p = buf;
    *p++ = v->seal ? NGX_ASANA_LMDB_VALUE_SEALED : NGX_ASANA_LMDB_VALUE_CLEAR;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        p = ngx_cpymem(p, s->id, NGX_ASANA_ID_LEN);
        p = ngx_asana_lmdb_value_put(p, s->serial, 8);
        p = ngx_asana_lmdb_value_put(p, s->created, 8);
        p = ngx_asana_lmdb_value_put(p, s->verified, 8);
        p = ngx_asana_lmdb_value_put(p, s->answered, 8);
        p = ngx_asana_lmdb_value_put(p, s->failing, 8);
        p = ngx_asana_lmdb_value_put(p, s->code, 2);
        *p++ = s->pending ? NGX_ASANA_LMDB_VALUE_PENDING : 0;
        *p++ = s->gid_len;

        length = p;
        p = ngx_cpymem(p + 2, s->gid, s->gid_len);

        if (v->seal) {
            len = ngx_asana_lmdb_value_seal(v, s, old, value, p);

            if (len == 0) {
                return 0;
            }

        } else {
            len = s->len;
            ngx_memcpy(p, s->data, len);
        }

        (void) ngx_asana_lmdb_value_put(length, len, 2);
        p += len;

        s = ngx_asana_secret_next(s);
    }

    return p - buf;
}


static size_t
ngx_asana_lmdb_value_seal(ngx_asana_lmdb_value_t *v, ngx_asana_secret_t *s,
    ngx_asana_secrets_t *old, ngx_str_t *value, u_char *buf)
{
    ngx_uint_t                same;
    ngx_asana_secret_t       *other;
    ngx_asana_lmdb_record_t   record;

    other = ngx_asana_secrets_by_id(old, s->id);

    same = other && other->pending == s->pending && other->len == s->len
           && ngx_memcmp(other->data, s->data, s->len) == 0
           && ngx_asana_lmdb_value_find(v, s, value, &record);

    if (same && v->reseal && s->data[0]
        && ngx_asana_seal_old(v->seal, record.text))
    {
        same = 0;
        v->reseal--;
    }

    if (same) {
        ngx_memcpy(buf, record.text, record.len);
        return record.len;
    }

    if (s->data[0] == '\0') {

        /* what could not be opened is not known */

        return 0;
    }

    v->place.id = s->id;
    v->place.pending = s->pending;

    return ngx_asana_seal_encrypt(v->seal, &v->place, s->data, s->len, buf);
}


static ngx_uint_t
ngx_asana_lmdb_value_find(ngx_asana_lmdb_value_t *v, ngx_asana_secret_t *s,
    ngx_str_t *value, ngx_asana_lmdb_record_t *record)
{
    u_char  *p, *last;

    p = value->data + 1;
    last = value->data + value->len;

    while (p < last
           && ngx_asana_lmdb_value_record(v, &p, last, record) == NGX_OK)
    {
        if (ngx_memcmp(record->p, s->id, NGX_ASANA_ID_LEN) == 0) {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_asana_lmdb_value_decode(ngx_asana_lmdb_value_t *v,
    ngx_asana_secrets_t *secrets, u_char *p, size_t len)
{
    size_t                    size;
    u_char                   *last;
    ngx_int_t                 rc;
    ngx_uint_t                n;
    ngx_asana_lmdb_record_t   record;

    if (len == 0
        || *p != (v->seal ? NGX_ASANA_LMDB_VALUE_SEALED
                          : NGX_ASANA_LMDB_VALUE_CLEAR))
    {
        return NGX_DECLINED;
    }

    n = secrets->n;
    size = secrets->size;

    last = p++ + len;
    rc = NGX_OK;
    v->rc = NGX_OK;

    while (p < last && rc == NGX_OK) {

        rc = ngx_asana_lmdb_value_record(v, &p, last, &record);

        if (rc == NGX_OK
            && (secrets->n - n == NGX_ASANA_LMDB_VALUE_MAX
                || ngx_asana_secrets_by_id(secrets, record.p)))
        {
            rc = NGX_DECLINED;
        }

        if (rc == NGX_OK) {
            rc = ngx_asana_lmdb_value_push(v, secrets, &record);
        }
    }

    if (rc != NGX_OK && secrets->size > size) {
        ngx_explicit_memzero(secrets->start + size, secrets->size - size);
        secrets->size = size;
        secrets->n = n;
    }

    return (rc == NGX_OK && v->rc != NGX_OK) ? NGX_ABORT : rc;
}


static ngx_int_t
ngx_asana_lmdb_value_record(ngx_asana_lmdb_value_t *v, u_char **pos,
    u_char *last, ngx_asana_lmdb_record_t *record)
{
    size_t       more;
    u_char      *p;
    ngx_uint_t   i;

    p = *pos;
    more = v->seal ? NGX_ASANA_SEAL_OVERHEAD : 0;

    if (last - p < NGX_ASANA_LMDB_VALUE_RECORD) {
        return NGX_DECLINED;
    }

    for (i = 0; i < 4; i++) {
        if (ngx_asana_lmdb_value_get(p + 16 + 8 * i, 8)
            > NGX_ASANA_LMDB_VALUE_MAX_TIME)
        {
            return NGX_DECLINED;
        }
    }

    record->p = p;
    record->pending = p[50];
    record->gid_len = p[51];
    record->len = (size_t) ngx_asana_lmdb_value_get(p + 52, 2);
    record->text = p + NGX_ASANA_LMDB_VALUE_RECORD + record->gid_len;

    if ((record->pending & ~NGX_ASANA_LMDB_VALUE_PENDING)
        || record->gid_len > NGX_ASANA_MAX_GID
        || record->len < NGX_ASANA_MIN_SECRET + more
        || record->len > NGX_ASANA_MAX_SECRET + more
        || (size_t) (last - p) < NGX_ASANA_LMDB_VALUE_RECORD
                                 + record->gid_len + record->len)
    {
        return NGX_DECLINED;
    }

    *pos = record->text + record->len;

    return NGX_OK;
}


static ngx_int_t
ngx_asana_lmdb_value_push(ngx_asana_lmdb_value_t *v,
    ngx_asana_secrets_t *secrets, ngx_asana_lmdb_record_t *record)
{
    size_t               len;
    u_char              *p;
    ngx_int_t            rc;
    ngx_asana_secret_t  *s;

    p = record->p;
    len = v->seal ? record->len - NGX_ASANA_SEAL_OVERHEAD : record->len;

    s = ngx_asana_secrets_push(secrets, len);
    if (s == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(s->id, p, NGX_ASANA_ID_LEN);

    s->serial = ngx_asana_lmdb_value_get(p + 8, 8);
    s->created = ngx_asana_time(ngx_asana_lmdb_value_get(p + 16, 8));
    s->verified = ngx_asana_time(ngx_asana_lmdb_value_get(p + 24, 8));
    s->answered = ngx_asana_time(ngx_asana_lmdb_value_get(p + 32, 8));
    s->failing = ngx_asana_time(ngx_asana_lmdb_value_get(p + 40, 8));
    s->stored = s->verified;
    s->code = (uint16_t) ngx_asana_lmdb_value_get(p + 48, 2);
    s->pending = record->pending;
    s->gid_len = record->gid_len;

    ngx_memcpy(s->gid, p + NGX_ASANA_LMDB_VALUE_RECORD, s->gid_len);

    if (v->seal == NULL) {
        ngx_memcpy(s->data, record->text, len);
        return NGX_OK;
    }

    v->place.id = s->id;
    v->place.pending = s->pending;

    rc = ngx_asana_seal_decrypt(v->seal, &v->place, record->text, record->len,
                                s->data, &len);

    if (rc != NGX_OK && v->rc == NGX_OK) {
        v->rc = rc;
        ngx_memcpy(v->key_id, record->text + 1, NGX_ASANA_SEAL_ID_LEN);
    }

    return NGX_OK;
}


void
ngx_asana_lmdb_value_count(ngx_asana_lmdb_value_t *v, u_char *p, size_t len,
    ngx_asana_seal_usage_t *usage, ngx_int_t n)
{
    u_char                   *last;
    ngx_asana_lmdb_record_t   record;

    if (len == 0 || *p != NGX_ASANA_LMDB_VALUE_SEALED) {
        return;
    }

    last = p++ + len;

    while (p < last
           && ngx_asana_lmdb_value_record(v, &p, last, &record) == NGX_OK)
    {
        ngx_asana_seal_count(usage, record.text + 1, n);
    }
}


ngx_uint_t
ngx_asana_lmdb_value_old(ngx_asana_lmdb_value_t *v, u_char *p, size_t len)
{
    u_char                   *last;
    ngx_asana_lmdb_record_t   record;

    if (len == 0 || *p != NGX_ASANA_LMDB_VALUE_SEALED) {
        return 0;
    }

    last = p++ + len;

    while (p < last
           && ngx_asana_lmdb_value_record(v, &p, last, &record) == NGX_OK)
    {
        if (ngx_asana_seal_old(v->seal, record.text)) {
            return 1;
        }
    }

    return 0;
}


static u_char *
ngx_asana_lmdb_value_put(u_char *p, uint64_t n, size_t size)
{
    while (size--) {
        *p++ = (u_char) (n >> 8 * size);
    }

    return p;
}


static uint64_t
ngx_asana_lmdb_value_get(u_char *p, size_t size)
{
    uint64_t  n;

    n = 0;

    while (size--) {
        n = n << 8 | *p++;
    }

    return n;
}
