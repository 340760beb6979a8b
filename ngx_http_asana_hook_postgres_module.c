
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A module of its own, so that who needs no fleet loads no libpq: it brings the
 * backend of "state=postgresql:" into the module that knows the directives, and
 * which is to be loaded before.
 */


#include "ngx_http_asana_define.h"

#include "ngx_asana_postgres.h"


static ngx_int_t ngx_http_asana_hook_postgres_preconfiguration(
    ngx_conf_t *cf);


static ngx_http_module_t  ngx_http_asana_hook_postgres_module_ctx = {
    ngx_http_asana_hook_postgres_preconfiguration,  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_asana_hook_postgres_module = {
    NGX_MODULE_V1,
    &ngx_http_asana_hook_postgres_module_ctx,  /* module context */
    NULL,                                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_asana_hook_postgres_preconfiguration(ngx_conf_t *cf)
{
    ngx_http_asana_define_fleet = &ngx_asana_postgres;

    return NGX_OK;
}
