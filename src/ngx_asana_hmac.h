
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_HMAC_H_INCLUDED_
#define _NGX_ASANA_HMAC_H_INCLUDED_


#include "ngx_asana_secrets.h"


/*
 * All functions may be called in any thread.
 *
 * Computes HMAC-SHA256 (RFC 2104) of the body with the text of the secret as
 * the key (Asana, "Webhooks guide") into mac[MAC_LEN].  Buffers are read where
 * they lie, in memory or in a file, and left unchanged.  NGX_ERROR if a file
 * cannot be read, with a line in the log of the pool; then "mac" is worthless.
 */
ngx_int_t ngx_asana_hmac(ngx_asana_secret_t *s, ngx_chain_t *body,
    ngx_pool_t *pool, u_char *mac);

/* 1 if both have the same MAC_LEN bytes; takes as long if they have not. */
ngx_uint_t ngx_asana_hmac_equal(u_char *one, u_char *two);

/* Writes SHA-256(secret), cut to ID_LEN bytes, to id. */
void ngx_asana_hmac_id(u_char *secret, size_t len, u_char *id);

/*
 * Reads the 64 hex digits of X-Hook-Signature into mac[MAC_LEN];
 * NGX_DECLINED if the value is anything else.
 */
ngx_int_t ngx_asana_hmac_parse(ngx_str_t *value, u_char *mac);

/*
 * NGX_OK if the body is a heartbeat, {"events":[]} in any spacing (RFC 8259),
 * NGX_DECLINED if not, NGX_ERROR if a file cannot be read.
 */
ngx_int_t ngx_asana_hmac_heartbeat(ngx_chain_t *body, ngx_pool_t *pool);


#endif /* _NGX_ASANA_HMAC_H_INCLUDED_ */
