
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_HMAC_H_INCLUDED_
#define _NGX_ASANA_HMAC_H_INCLUDED_


#include "ngx_asana_secrets.h"


typedef struct ngx_asana_hmac_s  ngx_asana_hmac_t;


/*
 * Returns HMAC state that lives as long as the pool; each process uses its
 * own copy, in its main thread alone.  NULL if OpenSSL fails, with a line in
 * the log.
 */
ngx_asana_hmac_t *ngx_asana_hmac_create(ngx_pool_t *pool, ngx_log_t *log);

/*
 * Computes HMAC-SHA256 (RFC 2104) of the body with the text of the secret as
 * the key (Asana, "Webhooks guide") into mac[MAC_LEN].  Keys of secrets are
 * kept ready; the first call with another version of the store, that in which
 * the secret was read, overwrites them, once a second at most.  Buffers are
 * read where they lie, in memory or in a file, and left unchanged.  NGX_ERROR
 * if OpenSSL fails or a file cannot be read; the reason is logged.
 */
ngx_int_t ngx_asana_hmac(ngx_asana_hmac_t *hmac, ngx_asana_secret_t *s,
    uint64_t version, ngx_chain_t *body, ngx_pool_t *pool, u_char *mac);

/* Writes SHA-256(secret), cut to ID_LEN bytes, to id; NGX_ERROR on failure. */
ngx_int_t ngx_asana_hmac_id(u_char *secret, size_t len, u_char *id);

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
