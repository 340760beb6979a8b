
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_ANSWER_H_INCLUDED_
#define _NGX_HTTP_ASANA_ANSWER_H_INCLUDED_


#include "ngx_http_asana_text.h"


/*
 * Answers of the control API, which are built whole before they are sent.
 * What is returned is what a content handler returns.
 */

/* Starts the text of an answer. */
void ngx_http_asana_answer_start(ngx_http_asana_text_t *out,
    ngx_http_request_t *r);

/* Sends it; NULL: there is no body. */
ngx_int_t ngx_http_asana_answer_send(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, ngx_http_asana_text_t *out);

/* Sends an error; the text is part of a JSON string. */
ngx_int_t ngx_http_asana_answer_error(ngx_http_request_t *r,
    ngx_uint_t status, const char *text);


#endif /* _NGX_HTTP_ASANA_ANSWER_H_INCLUDED_ */
