
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_VALUE_H_INCLUDED_
#define _NGX_ASANA_LMDB_VALUE_H_INCLUDED_


#include "ngx_asana_seal.h"


/*
 * The value of a key in the store, in clear or with sealed secrets; its layout
 * is in ngx_asana_lmdb_value.c.  All of it may be called in any thread.
 */

typedef struct {
    ngx_asana_seal_t         *seal;     /* NULL: in clear */
    ngx_asana_seal_place_t    place;    /* zone and key are the caller's */
    ngx_uint_t                reseal;   /* secrets that may be sealed anew */

    /* of a secret that could not be opened, see ngx_asana_seal_decrypt() */

    ngx_int_t                 rc;
    u_char                    key_id[NGX_ASANA_SEAL_ID_LEN];
} ngx_asana_lmdb_value_t;


/* What encode() writes at most, in bytes. */
size_t ngx_asana_lmdb_value_size(ngx_asana_secrets_t *secrets);

/*
 * Writes the value of the secrets to buf and returns its length, or 0 if
 * OpenSSL fails.  A secret that was sealed in the old value, and has not
 * changed since that was decoded into "old", stays as it was, unless its key is
 * not the first one any more and v->reseal, which counts down, allows to seal
 * it anew.
 */
size_t ngx_asana_lmdb_value_encode(ngx_asana_lmdb_value_t *v,
    ngx_asana_secrets_t *secrets, ngx_asana_secrets_t *old, ngx_str_t *value,
    u_char *buf);

/*
 * Appends the secrets of a value.  NGX_DECLINED: it is no such value, nothing
 * is appended then; NGX_ERROR: there is no memory.  NGX_ABORT: one at least
 * cannot be opened, see v->rc; it is appended with a text of zeroes, so that it
 * can be revoked, and is good for nothing else.
 */
ngx_int_t ngx_asana_lmdb_value_decode(ngx_asana_lmdb_value_t *v,
    ngx_asana_secrets_t *secrets, u_char *p, size_t len);

/* Counts n for the key of each of its secrets. */
void ngx_asana_lmdb_value_count(ngx_asana_lmdb_value_t *v, u_char *p,
    size_t len, ngx_asana_seal_usage_t *usage, ngx_int_t n);

/* Whether a secret is sealed by a key that is not the first, but is there. */
ngx_uint_t ngx_asana_lmdb_value_old(ngx_asana_lmdb_value_t *v, u_char *p,
    size_t len);


#endif /* _NGX_ASANA_LMDB_VALUE_H_INCLUDED_ */
