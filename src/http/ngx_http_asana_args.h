
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_ARGS_H_INCLUDED_
#define _NGX_HTTP_ASANA_ARGS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_asana_health.h"


typedef enum {
    NGX_HTTP_ASANA_ARG_KEY = 0,
    NGX_HTTP_ASANA_ARG_ID,
    NGX_HTTP_ASANA_ARG_AFTER,
    NGX_HTTP_ASANA_ARG_LIMIT,
    NGX_HTTP_ASANA_ARG_Q,
    NGX_HTTP_ASANA_ARG_HEALTH,
    NGX_HTTP_ASANA_ARGS
} ngx_http_asana_arg_e;


typedef struct {
    ngx_str_t                     value[NGX_HTTP_ASANA_ARGS];
    ngx_uint_t                    given;     /* a bit for each */
    ngx_int_t                     limit;     /* 1 to 1000 */
    ngx_uint_t                    status;    /* of an error */
    ngx_uint_t                    health;    /* a bit for each that is meant */
    u_char                        id[NGX_ASANA_ID_LEN];
} ngx_http_asana_args_t;


/*
 * Reads the arguments of a call to the API, of which some are allowed, a bit
 * for each.  Returns what is wrong with them, as a part of a JSON string, or
 * NULL; args->status goes with it.
 */
const char *ngx_http_asana_args_read(ngx_http_request_t *r,
    ngx_uint_t allowed, ngx_http_asana_args_t *args);


#endif /* _NGX_HTTP_ASANA_ARGS_H_INCLUDED_ */
