
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_CALL_H_INCLUDED_
#define _NGX_HTTP_ASANA_CALL_H_INCLUDED_


#include "ngx_http_asana_request.h"


/* A create call, from its request until its answer; zeroed at the start. */

typedef struct {
    ngx_http_asana_ctx_t         *ctx;
    ngx_http_asana_end_pt         end;       /* of its other steps */
    ngx_asana_create_t            create;    /* on this host */
    ngx_uint_t                    told;      /* 1: the other hosts know */
    u_char                        id[NGX_ASANA_ID_LEN];
} ngx_http_asana_call_t;


/*
 * It is in flight: NGX_DECLINED.  Where hosts share the store, and a policy
 * asks for it, they are told first: NGX_DONE, and the phases go on later.
 */
ngx_int_t ngx_http_asana_call_begin(ngx_http_asana_call_t *call);

/* It has its answer, or will get none; may be called again. */
void ngx_http_asana_call_end(ngx_http_asana_call_t *call);


#endif /* _NGX_HTTP_ASANA_CALL_H_INCLUDED_ */
