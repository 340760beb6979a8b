
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_HEADER_H_INCLUDED_
#define _NGX_HTTP_ASANA_HEADER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* what the protocol brings; of a header that is repeated, the last value */

typedef struct {
    ngx_uint_t                    secrets;       /* X-Hook-Secret */
    ngx_uint_t                    signatures;    /* X-Hook-Signature */
    ngx_str_t                     secret;
    ngx_str_t                     signature;
} ngx_http_asana_header_t;


/* "x-asana-hook-status" */
extern ngx_str_t  ngx_http_asana_header_status;


/* Finds and counts the headers of the protocol. */
void ngx_http_asana_header_read(ngx_http_request_t *r,
    ngx_http_asana_header_t *h);

/*
 * Takes a header out of the request, each time that it occurs, also with
 * other characters for "-".  Other requests that share the list keep theirs.
 * NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_asana_header_hide(ngx_http_request_t *r, ngx_str_t *name);

/* At configuration time, for what follows. */
void ngx_http_asana_header_init(void);

/*
 * Adds X-Asana-Hook-Status to the request, where there is none any more; the
 * value must live as long.  NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_asana_header_set(ngx_http_request_t *r, ngx_str_t *value);

/* Adds a header to the answer; name and value live as long. */
ngx_int_t ngx_http_asana_header_add(ngx_http_request_t *r, const char *name,
    ngx_str_t *value);


#endif /* _NGX_HTTP_ASANA_HEADER_H_INCLUDED_ */
