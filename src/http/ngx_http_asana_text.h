
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_TEXT_H_INCLUDED_
#define _NGX_HTTP_ASANA_TEXT_H_INCLUDED_


#include "ngx_http_asana_conf.h"
#include "ngx_http_asana_word.h"


/* text that grows; "failed" is set when there is no memory for more of it */

typedef struct {
    ngx_pool_t                   *pool;
    ngx_chain_t                  *head;
    ngx_chain_t                  *last;
    size_t                        size;     /* of all text */
    ngx_uint_t                    failed;
} ngx_http_asana_text_t;


/* Appends text formatted as by ngx_sprintf(), at most 1024 bytes. */
void ngx_http_asana_text(ngx_http_asana_text_t *out, const char *fmt, ...);

/* Appends the text as it is, of any length. */
void ngx_http_asana_text_string(ngx_http_asana_text_t *out, ngx_str_t *text);

/* Appends a word in lower case; what a dry run counts has its suffix. */
void ngx_http_asana_text_word(ngx_http_asana_text_t *out,
    ngx_http_asana_word_e word, ngx_uint_t dry_run);

/* Appends the counters of the zone, members of an object. */
void ngx_http_asana_text_counters(ngx_http_asana_text_t *out,
    ngx_asana_counters_t *counters);

/* Appends a last member that counts secrets by encryption keys, if any. */
void ngx_http_asana_text_keys(ngx_http_asana_text_t *out,
    ngx_asana_seal_usage_t *usage);

/* Appends the keys by their health, a member of an object; null: not known */
void ngx_http_asana_text_health(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf);

/* Appends the object of a key and its secrets. */
void ngx_http_asana_text_hook(ngx_http_asana_text_t *out,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *key,
    ngx_asana_secrets_t *secrets);

/* Appends a member of this name and a comma; the time 0 is null. */
void ngx_http_asana_text_time(ngx_http_asana_text_t *out, const char *name,
    time_t t);

/* Appends the content of a JSON string, whatever the bytes are. */
void ngx_http_asana_text_json(ngx_http_asana_text_t *out, ngx_str_t *text);

/* Appends bytes in hex. */
void ngx_http_asana_text_hex(ngx_http_asana_text_t *out, u_char *p,
    size_t len);

/* Appends the text percent-encoded (RFC 3986). */
void ngx_http_asana_text_escaped(ngx_http_asana_text_t *out, ngx_str_t *text);


#endif /* _NGX_HTTP_ASANA_TEXT_H_INCLUDED_ */
