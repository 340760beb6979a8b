
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_page.h"
#include "ngx_http_asana_answer.h"
#include "ngx_http_asana_header.h"

#include <openssl/evp.h>


#define NGX_HTTP_ASANA_PAGE_POLICY                                            \
    "default-src 'none'; connect-src 'self'; base-uri 'none'; "               \
    "form-action 'none'; frame-ancestors 'none'; "                            \
    "style-src 'sha256-%V'; script-src 'sha256-%V'"


static ngx_int_t ngx_http_asana_page_hash(ngx_str_t *hash, const char *start,
    const char *end);


/* the text of page.html as strings of C, which "config" makes */

static const char  ngx_http_asana_page_html[] =
#include "asana_hook_page.inc"
;

static ngx_str_t  ngx_http_asana_page_policy;


ngx_int_t
ngx_http_asana_page_init(ngx_conf_t *cf)
{
    u_char     *p, buf[2][ngx_base64_encoded_length(EVP_MAX_MD_SIZE)];
    ngx_str_t   style, script;

    style.data = buf[0];
    script.data = buf[1];

    if (ngx_http_asana_page_hash(&style, "<style>", "</style>") != NGX_OK
        || ngx_http_asana_page_hash(&script, "<script>", "</script>")
           != NGX_OK)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "OpenSSL has no SHA-256");
        return NGX_ERROR;
    }

    p = ngx_pnalloc(cf->pool, sizeof(NGX_HTTP_ASANA_PAGE_POLICY)
                              + style.len + script.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_http_asana_page_policy.data = p;
    ngx_http_asana_page_policy.len = ngx_sprintf(p, NGX_HTTP_ASANA_PAGE_POLICY,
                                                 &style, &script)
                                     - p;

    return NGX_OK;
}


/* of what is between the two, which are there once */

static ngx_int_t
ngx_http_asana_page_hash(ngx_str_t *hash, const char *start, const char *end)
{
    u_char        md[EVP_MAX_MD_SIZE];
    ngx_str_t     digest;
    const char   *p, *last;
    unsigned int  len;

    p = ngx_strstr(ngx_http_asana_page_html, start);
    p += ngx_strlen(start);
    last = ngx_strstr(p, end);

    if (EVP_Digest(p, last - p, md, &len, EVP_sha256(), NULL) != 1) {
        return NGX_ERROR;
    }

    digest.data = md;
    digest.len = len;

    ngx_encode_base64(hash, &digest);

    return NGX_OK;
}


ngx_uint_t
ngx_http_asana_page_wanted(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    part = &r->headers_in.headers.part;
    header = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return 0;
            }

            part = part->next;
            header = part->elts;
            i = 0;
        }

        if (header[i].key.len == sizeof("accept") - 1
            && ngx_strncmp(header[i].lowcase_key, "accept",
                           sizeof("accept") - 1)
               == 0
            && ngx_strlcasestrn(header[i].value.data,
                                header[i].value.data + header[i].value.len,
                                (u_char *) "text/html",
                                sizeof("text/html") - 2))
        {
            return 1;
        }
    }
}


ngx_int_t
ngx_http_asana_page(ngx_http_request_t *r)
{
    ngx_str_t               html;
    ngx_uint_t              i;
    ngx_http_asana_text_t   out;

    static struct {
        const char  *name;
        ngx_str_t    value;
    } headers[] = {
        { "X-Content-Type-Options", ngx_string("nosniff") },
        { "Referrer-Policy", ngx_string("no-referrer") },
        { "Vary", ngx_string("Accept") }
    };

    for (i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        if (ngx_http_asana_header_add(r, headers[i].name, &headers[i].value)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (ngx_http_asana_header_add(r, "Content-Security-Policy",
                                  &ngx_http_asana_page_policy)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    html.len = sizeof(ngx_http_asana_page_html) - 1;
    html.data = (u_char *) ngx_http_asana_page_html;

    ngx_http_asana_answer_start(&out, r);
    ngx_http_asana_text_string(&out, &html);

    return ngx_http_asana_answer_send(r, NGX_HTTP_OK,
                                      "text/html; charset=utf-8", &out);
}
