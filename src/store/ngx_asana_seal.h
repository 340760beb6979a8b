
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_SEAL_H_INCLUDED_
#define _NGX_ASANA_SEAL_H_INCLUDED_


#include "ngx_asana_secrets.h"


/* bytes; a key of the key file is named by the first of its SHA-256 */
#define NGX_ASANA_SEAL_ID_LEN    4
#define NGX_ASANA_SEAL_OVERHEAD  (1 + NGX_ASANA_SEAL_ID_LEN + 12 + 16)
#define NGX_ASANA_SEAL_MAX                                                    \
    (NGX_ASANA_SEAL_OVERHEAD + NGX_ASANA_MAX_SECRET)


/*
 * What a sealed secret is bound to: it is not accepted in another place.  The
 * state is that of s->pending.
 */

typedef struct {
    ngx_str_t             zone;
    ngx_str_t             key;
    u_char               *id;       /* [NGX_ASANA_ID_LEN] */
    ngx_uint_t            pending;
} ngx_asana_seal_place_t;


/* how many secrets are encrypted by which keys, of a few keys */

#define NGX_ASANA_SEAL_USED      32

typedef struct {
    uint64_t              secrets;
    u_char                id[NGX_ASANA_SEAL_ID_LEN];
} ngx_asana_seal_used_t;

typedef struct {
    ngx_uint_t              n;
    ngx_asana_seal_used_t   keys[NGX_ASANA_SEAL_USED];
} ngx_asana_seal_usage_t;


/*
 * Reads the file of "encryption_key", in the master: 64 hex digits a line, the
 * first key encrypts, all of them decrypt.  The file must be readable by its
 * owner alone.  The keys live as long as the pool, and are overwritten then.
 * NULL, and it is logged, if there is no such file, or anything else in it.
 */
ngx_asana_seal_t *ngx_asana_seal_open(ngx_pool_t *pool, ngx_str_t *file,
    ngx_log_t *log);

/*
 * Encrypts the secret into buf[NGX_ASANA_SEAL_MAX], in any thread, and returns
 * the length; 0 if OpenSSL fails.
 */
size_t ngx_asana_seal_encrypt(ngx_asana_seal_t *seal,
    ngx_asana_seal_place_t *place, u_char *secret, size_t len, u_char *buf);

/*
 * Decrypts what was sealed for this place into secret[MAX_SECRET], in any
 * thread.  NGX_DECLINED: there is no key with the id that is behind the first
 * byte of it; NGX_ERROR: it was changed, moved, or is nothing of the kind.
 */
ngx_int_t ngx_asana_seal_decrypt(ngx_asana_seal_t *seal,
    ngx_asana_seal_place_t *place, u_char *sealed, size_t size, u_char *secret,
    size_t *len);

/*
 * Logs why decrypt() returned rc for a secret of the zone's key, which is
 * sealed by the encryption key with this id.
 */
void ngx_asana_seal_complain(ngx_asana_seal_place_t *place, ngx_int_t rc,
    u_char *key_id, ngx_log_t *log);

/* The id of the i-th key, [NGX_ASANA_SEAL_ID_LEN]; NULL if there is none. */
u_char *ngx_asana_seal_key_id(ngx_asana_seal_t *seal, ngx_uint_t i);

/* Whether what is sealed can be opened, but not by the first key. */
ngx_uint_t ngx_asana_seal_old(ngx_asana_seal_t *seal, u_char *sealed);

/* Starts with all keys of the file in their order, and no secrets. */
void ngx_asana_seal_usage(ngx_asana_seal_t *seal,
    ngx_asana_seal_usage_t *usage);

/* Adds n secrets of a key; those of one key too many are not counted. */
void ngx_asana_seal_count(ngx_asana_seal_usage_t *usage, u_char *key_id,
    int64_t n);

/* The secrets that are encrypted by another key than the first. */
uint64_t ngx_asana_seal_left(ngx_asana_seal_usage_t *usage);


#endif /* _NGX_ASANA_SEAL_H_INCLUDED_ */
