
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_FILTER_H_INCLUDED_
#define _NGX_HTTP_ASANA_FILTER_H_INCLUDED_


#include "ngx_http_asana_args.h"
#include "ngx_http_asana_request.h"

#include "ngx_asana_walk.h"


/* a page of keys; ctx->data is one, all zeroes but listing.shown */

typedef struct {
    ngx_asana_listing_t             listing;    /* must be first */
    ngx_http_asana_step_pt          step;
    ngx_asana_walk_t               *walk;       /* that is under way */
    ngx_uint_t                      walks;
    ngx_uint_t                      left;       /* keys of the page */
    ngx_uint_t                      health;     /* a bit for each */
    ngx_str_t                       text;
    ngx_str_t                       next;       /* the last key, if visited */
    u_char                          buf[NGX_ASANA_MAX_KEY];
} ngx_http_asana_filter_t;


/*
 * Shows a page of the keys that the arguments ask for.  If not all are meant,
 * so many thousand keys are looked at, in the thread, and filter->next says
 * where to go on; the page may be empty then.  The step gets NGX_OK after the
 * last key, NGX_DONE if there may be more, NGX_ERROR.
 */
ngx_int_t ngx_http_asana_filter(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_args_t *args, ngx_http_asana_step_pt step);


#endif /* _NGX_HTTP_ASANA_FILTER_H_INCLUDED_ */
