
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_answer.h"
#include "ngx_http_asana_header.h"


ngx_int_t
ngx_http_asana_answer_error(ngx_http_request_t *r, ngx_uint_t status,
    const char *text)
{
    ngx_http_asana_text_t  out;

    ngx_http_asana_answer_start(&out, r);
    ngx_http_asana_text(&out, "{\"error\":\"%s\"}\n", text);

    return ngx_http_asana_answer_send(r, status, "application/json", &out);
}


ngx_int_t
ngx_http_asana_answer_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_http_asana_text_t *out)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_str_set(&value, "no-store");

    if ((out && out->failed)
        || ngx_http_asana_header_add(r, "Cache-Control", &value)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = status;
    r->disable_not_modified = 1;

    if (out) {
        r->headers_out.content_length_n = (off_t) out->size;
        r->headers_out.content_type.data = (u_char *) type;
        r->headers_out.content_type.len = ngx_strlen(type);
        r->headers_out.content_type_len = r->headers_out.content_type.len;

        out->last->buf->last_buf = (r == r->main) ? 1 : 0;
        out->last->buf->last_in_chain = 1;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only || out == NULL) {
        return rc;
    }

    return ngx_http_output_filter(r, out->head);
}


void
ngx_http_asana_answer_start(ngx_http_asana_text_t *out,
    ngx_http_request_t *r)
{
    ngx_memzero(out, sizeof(ngx_http_asana_text_t));
    out->pool = r->pool;
}
