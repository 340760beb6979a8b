
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_WORD_H_INCLUDED_
#define _NGX_HTTP_ASANA_WORD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_asana_counters.h"


/* status words; of deliveries those from VERIFIED to ERROR */

typedef enum {
    NGX_HTTP_ASANA_NONE = 0,
    NGX_HTTP_ASANA_HANDSHAKE,
    NGX_HTTP_ASANA_REFUSED,
    NGX_HTTP_ASANA_VERIFIED,
    NGX_HTTP_ASANA_HEARTBEAT,
    NGX_HTTP_ASANA_PENDING,
    NGX_HTTP_ASANA_UNSIGNED,
    NGX_HTTP_ASANA_UNKNOWN,
    NGX_HTTP_ASANA_INVALID,
    NGX_HTTP_ASANA_MALFORMED,
    NGX_HTTP_ASANA_ABORTED,
    NGX_HTTP_ASANA_ERROR,
    NGX_HTTP_ASANA_UNCHECKED,
    NGX_HTTP_ASANA_CONFIRMED,
    NGX_HTTP_ASANA_UNMATCHED,
    NGX_HTTP_ASANA_UNREADABLE,
    NGX_HTTP_ASANA_REVOKED,
    NGX_HTTP_ASANA_WORDS
} ngx_http_asana_word_e;


/* by ngx_asana_count_e: a bit for each word that is counted so */
extern ngx_uint_t  ngx_http_asana_word_counts[];

/* a bit for each word that is no success */
extern ngx_uint_t  ngx_http_asana_word_failures;


/*
 * The text of a word, in upper case, with the suffix of a dry run if it is
 * one; empty for NONE.
 */
void ngx_http_asana_word(ngx_str_t *text, ngx_http_asana_word_e word,
    ngx_uint_t dry_run);

/*
 * Names a key, or other text that may come from a client, in a line of the
 * log: as it is, or percent-encoded in buf, which has three times its length.
 * Returns what goes before it for the command "asana-hook": "" or "ref:".
 */
const char *ngx_http_asana_word_name(ngx_str_t *text, ngx_str_t *name,
    u_char *buf);


#endif /* _NGX_HTTP_ASANA_WORD_H_INCLUDED_ */
