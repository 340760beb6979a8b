
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_PAGE_H_INCLUDED_
#define _NGX_HTTP_ASANA_PAGE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/*
 * The page for people, src/http/page.html.  It is the same for everybody, and
 * asks the API for all that it shows.
 */

/* At configuration time: NGX_ERROR if OpenSSL fails, which is logged. */
ngx_int_t ngx_http_asana_page_init(ngx_conf_t *cf);

/* Whether the client asks for HTML: 1 if "Accept" names "text/html". */
ngx_uint_t ngx_http_asana_page_wanted(ngx_http_request_t *r);

/*
 * Answers with the page, and with headers that let a browser run nothing but
 * what is in it (W3C, "Content Security Policy Level 3", 6.7.2).  Returns what
 * a content handler is to return.
 */
ngx_int_t ngx_http_asana_page(ngx_http_request_t *r);


#endif /* _NGX_HTTP_ASANA_PAGE_H_INCLUDED_ */
