
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_ack.h"
#include "ngx_http_asana_api.h"
#include "ngx_http_asana_define.h"
#include "ngx_http_asana_gateway.h"
#include "ngx_http_asana_handler.h"
#include "ngx_http_asana_header.h"
#include "ngx_http_asana_page.h"


#define NGX_HTTP_ASANA_HOOK_VAR_STATUS     0
#define NGX_HTTP_ASANA_HOOK_VAR_KEY        1
#define NGX_HTTP_ASANA_HOOK_VAR_SECRET_ID  2
#define NGX_HTTP_ASANA_HOOK_VAR_WEBHOOK    3


#define ngx_http_asana_hook_named(shm_zone)                                   \
    ((shm_zone) != NGX_CONF_UNSET_PTR && (shm_zone) != NULL)


static ngx_int_t ngx_http_asana_hook_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_asana_hook_add_variables(ngx_conf_t *cf);
static void *ngx_http_asana_hook_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_asana_hook_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_asana_hook_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_asana_hook_role(ngx_conf_t *cf,
    ngx_http_asana_loc_conf_t *prev, ngx_http_asana_loc_conf_t *conf);
static void ngx_http_asana_hook_beside_return(ngx_conf_t *cf);
static ngx_int_t ngx_http_asana_hook_known(ngx_conf_t *cf,
    const char *directive, ngx_shm_zone_t *shm_zone);
static char *ngx_http_asana_hook_api(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_asana_hook_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_asana_hook_init_process(ngx_cycle_t *cycle);
static void ngx_http_asana_hook_exit_process(ngx_cycle_t *cycle);


static ngx_conf_enum_t  ngx_http_asana_hook_log_levels[] = {
    { ngx_string("info"), NGX_LOG_INFO },
    { ngx_string("notice"), NGX_LOG_NOTICE },
    { ngx_string("warn"), NGX_LOG_WARN },
    { ngx_string("error"), NGX_LOG_ERR },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_asana_hook_heartbeats[] = {
    { ngx_string("pass"), NGX_HTTP_ASANA_HEARTBEAT_PASS },
    { ngx_string("answer"), NGX_HTTP_ASANA_HEARTBEAT_ANSWER },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_asana_hook_commands[] = {

    { ngx_string("asana_hook_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_asana_define,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("asana_hook"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_conf_named,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, hook),
      NULL },

    { ngx_string("asana_hook_gateway"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_conf_named,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, gateway),
      NULL },

    { ngx_string("asana_hook_enroll"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_conf_enroll,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, enroll),
      NULL },

    { ngx_string("asana_hook_status"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_conf_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("asana_hook_log_level"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_conf_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, log_level),
      &ngx_http_asana_hook_log_levels },

    { ngx_string("asana_hook_heartbeat"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_conf_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, heartbeat),
      &ngx_http_asana_hook_heartbeats },

    { ngx_string("asana_hook_ack"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, ack),
      NULL },

    { ngx_string("asana_hook_dry_run"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_loc_conf_t, dry_run),
      NULL },

    { ngx_string("asana_hook_api"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_asana_hook_api,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_asana_hook_module_ctx = {
    ngx_http_asana_hook_add_variables,     /* preconfiguration */
    ngx_http_asana_hook_init,              /* postconfiguration */

    ngx_http_asana_hook_create_main_conf,  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_asana_hook_create_loc_conf,   /* create location configuration */
    ngx_http_asana_hook_merge_loc_conf     /* merge location configuration */
};


ngx_module_t  ngx_http_asana_hook_module = {
    NGX_MODULE_V1,
    &ngx_http_asana_hook_module_ctx,       /* module context */
    ngx_http_asana_hook_commands,          /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_asana_hook_init_process,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_asana_hook_exit_process,      /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t  ngx_http_asana_hook_vars[] = {

    { ngx_string("asana_hook_status"), NULL,
      ngx_http_asana_hook_variable,
      NGX_HTTP_ASANA_HOOK_VAR_STATUS, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("asana_hook_key"), NULL,
      ngx_http_asana_hook_variable,
      NGX_HTTP_ASANA_HOOK_VAR_KEY, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("asana_hook_secret_id"), NULL,
      ngx_http_asana_hook_variable,
      NGX_HTTP_ASANA_HOOK_VAR_SECRET_ID, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("asana_hook_webhook"), NULL,
      ngx_http_asana_hook_variable,
      NGX_HTTP_ASANA_HOOK_VAR_WEBHOOK, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_http_asana_hook_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t              value;
    ngx_http_asana_ctx_t  *ctx;

    ngx_str_null(&value);

    ctx = ngx_http_asana_request_ctx(r->main);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    switch (data) {

    case NGX_HTTP_ASANA_HOOK_VAR_STATUS:
        ngx_http_asana_request_word(ctx, &value);
        break;

    case NGX_HTTP_ASANA_HOOK_VAR_KEY:
        value = ctx->key;
        break;

    case NGX_HTTP_ASANA_HOOK_VAR_WEBHOOK:

        if (ctx->webhook.len) {
            value = ctx->webhook;
        }

        break;

    default: /* NGX_HTTP_ASANA_HOOK_VAR_SECRET_ID */

        if (ctx->word == NGX_HTTP_ASANA_VERIFIED
            || ctx->word == NGX_HTTP_ASANA_HEARTBEAT)
        {
            /* most configurations never ask */

            ngx_http_asana_request_identify(ctx, ctx->verified.id);
        }

        if (ctx->identified) {
            value.len = sizeof(ctx->id);
            value.data = ctx->id;
        }
    }

    if (value.data == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = value.len;
    v->data = value.data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_asana_hook_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static void *
ngx_http_asana_hook_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_asana_main_conf_t  *amcf;

    amcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_asana_main_conf_t));
    if (amcf == NULL) {
        return NULL;
    }

    /* of the configuration of before, which may have loaded another module */
    ngx_http_asana_define_fleet = NULL;

    if (ngx_array_init(&amcf->zones, cf->pool, 1,
                       sizeof(ngx_http_asana_zone_conf_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return amcf;
}


static void *
ngx_http_asana_hook_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_palloc(cf->pool, sizeof(ngx_http_asana_loc_conf_t));
    if (ahcf == NULL) {
        return NULL;
    }

    ahcf->hook = NGX_CONF_UNSET_PTR;
    ahcf->enroll = NGX_CONF_UNSET_PTR;
    ahcf->status = NGX_CONF_UNSET_UINT;
    ahcf->log_level = NGX_CONF_UNSET_UINT;
    ahcf->heartbeat = NGX_CONF_UNSET_UINT;
    ahcf->ack = NGX_CONF_UNSET;
    ahcf->dry_run = NGX_CONF_UNSET;
    ahcf->gateway = NGX_CONF_UNSET_PTR;
    ahcf->api = NULL;
    ahcf->api_write = 0;

    return ahcf;
}


static char *
ngx_http_asana_hook_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_asana_loc_conf_t *prev = parent;
    ngx_http_asana_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_asana_zone_conf_t  *azcf;

    if (ngx_http_asana_hook_role(cf, prev, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* below "if" nginx keeps the handler, below "limit_except" it does not */

    if (clcf->noname) {
        conf->api = prev->api;
        conf->api_write = prev->api_write;

        if (clcf->lmt_excpt && conf->api && clcf->handler == NULL) {
            clcf->handler = ngx_http_asana_api_handler;
        }
    }

    ngx_conf_merge_ptr_value(conf->hook, prev->hook, NULL);
    ngx_conf_merge_ptr_value(conf->gateway, prev->gateway, NULL);
    ngx_conf_merge_ptr_value(conf->enroll, prev->enroll, NULL);
    ngx_conf_merge_uint_value(conf->status, prev->status, NGX_HTTP_FORBIDDEN);
    ngx_conf_merge_uint_value(conf->log_level, prev->log_level, NGX_LOG_ERR);
    ngx_conf_merge_uint_value(conf->heartbeat, prev->heartbeat,
                              NGX_HTTP_ASANA_HEARTBEAT_PASS);
    ngx_conf_merge_value(conf->ack, prev->ack, 1);
    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);

    if (ngx_http_asana_hook_known(cf, "asana_hook", conf->hook) != NGX_OK
        || ngx_http_asana_hook_known(cf, "asana_hook_gateway", conf->gateway)
           != NGX_OK
        || ngx_http_asana_hook_known(cf, "asana_hook_api", conf->api)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (conf->gateway) {
        azcf = conf->gateway->data;
        azcf->gateway = 1;
    }

    if (conf->hook && conf->enroll) {
        azcf = conf->hook->data;

        if (conf->enroll->lengths) {
            azcf->perhaps = 1;

        } else if (ngx_strcmp(conf->enroll->value.data, "gateway") == 0) {
            azcf->awaited = 1;
        }
    }

    return NGX_CONF_OK;
}


/*
 * A location is a receiver, a gateway or an API; what it says itself goes
 * before what it inherits.  An API leaves what it inherits as it is, for
 * another handler may stand beside it.
 */

static ngx_int_t
ngx_http_asana_hook_role(ngx_conf_t *cf, ngx_http_asana_loc_conf_t *prev,
    ngx_http_asana_loc_conf_t *conf)
{
    ngx_uint_t  both, gateway, hook;

    hook = ngx_http_asana_hook_named(conf->hook);
    gateway = ngx_http_asana_hook_named(conf->gateway);

    /* "http" is the child of nothing: its own two are seen from below */

    both = ngx_http_asana_hook_named(prev->hook)
           && ngx_http_asana_hook_named(prev->gateway);

    if (both || hook + gateway + (conf->api != NULL) > 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook\", \"asana_hook_gateway\" and "
                           "\"asana_hook_api\" need locations of their own");
        return NGX_ERROR;
    }

    if (hook) {
        ngx_http_asana_hook_beside_return(cf);
        conf->gateway = NULL;
    }

    if (gateway) {
        conf->hook = NULL;
    }

    return NGX_OK;
}


/* the rewrite phase comes first: its "return" leaves nothing to decide */

static void
ngx_http_asana_hook_beside_return(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_array_t               **codes;
    ngx_module_t               *module;
    ngx_http_script_code_pt    *code;

    for (i = 0; cf->cycle->modules[i]; i++) {

        module = cf->cycle->modules[i];

        if (ngx_strcmp(module->name, "ngx_http_rewrite_module") != 0) {
            continue;
        }

        /* the first member of a structure that nginx keeps to itself */

        codes = ((ngx_http_conf_ctx_t *) cf->ctx)->loc_conf[module->ctx_index];

        if (*codes == NULL || (*codes)->nelts < sizeof(uintptr_t)) {
            return;
        }

        code = (*codes)->elts;

        if (*code == ngx_http_script_return_code) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"return\" beside \"asana_hook\" answers all "
                               "requests, and none of them is checked; take "
                               "one of the two out");
        }

        return;
    }
}


static ngx_int_t
ngx_http_asana_hook_known(ngx_conf_t *cf, const char *directive,
    ngx_shm_zone_t *shm_zone)
{
    if (shm_zone == NULL || shm_zone->data) {
        return NGX_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"%s\" names the unknown zone \"%V\"; define it with "
                       "\"asana_hook_zone\"", directive, &shm_zone->shm.name);

    return NGX_ERROR;
}


static char *
ngx_http_asana_hook_api(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_loc_conf_t *ahcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (ahcf->api) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 3) {

        if (ngx_strcmp(value[2].data, "write=on") == 0) {
            ahcf->api_write = 1;

        } else if (ngx_strcmp(value[2].data, "write=off") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"asana_hook_api\" parameter \"%V\", "
                               "it must be \"write=on\" or \"write=off\"",
                               &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->noname || clcf->named
#if (NGX_PCRE)
        || clcf->regex
#endif
       )
    {
        return "must be in a prefix or exact location";
    }

    if (value[1].len == 0) {
        return "has an empty zone name";
    }

    ahcf->api = ngx_shared_memory_add(cf, &value[1], 0,
                                      &ngx_http_asana_hook_module);
    if (ahcf->api == NULL) {
        return NGX_CONF_ERROR;
    }

    clcf->handler = ngx_http_asana_api_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_asana_hook_init(ngx_conf_t *cf)
{
    ngx_uint_t                    gateway, i;
    ngx_http_handler_pt          *h;
    ngx_http_core_main_conf_t    *cmcf;
    ngx_http_asana_main_conf_t   *amcf;
    ngx_http_asana_zone_conf_t  **zones;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_asana_hook_module);

    if (amcf->zones.nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_asana_page_init(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_asana_header_init();
    gateway = 0;
    zones = amcf->zones.elts;

    for (i = 0; i < amcf->zones.nelts; i++) {
        gateway |= zones[i]->gateway;

        if (zones[i]->awaited && !zones[i]->gateway) {
            ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                          "\"asana_hook_enroll gateway\" refuses all "
                          "handshakes of the zone \"%V\", for no location has "
                          "\"asana_hook_gateway %V\"",
                          &zones[i]->name, &zones[i]->name);
        }
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_POST_READ_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_asana_handler_post_read;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_asana_handler;

    ngx_http_asana_ack_init();

    if (gateway) {
        ngx_http_asana_gateway_init();
    }

    return NGX_OK;
}


/* a worker that cannot use its store must live: it is tried again later */

static ngx_int_t
ngx_http_asana_hook_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i;
    ngx_http_asana_main_conf_t   *amcf;
    ngx_http_asana_zone_conf_t  **zones;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    amcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_asana_hook_module);
    if (amcf == NULL) {
        return NGX_OK;
    }

    zones = amcf->zones.elts;

    for (i = 0; i < amcf->zones.nelts; i++) {
        if (ngx_asana_zone_open(zones[i]->zone, cycle) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_asana_hook_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i;
    ngx_http_asana_main_conf_t   *amcf;
    ngx_http_asana_zone_conf_t  **zones;

    amcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_asana_hook_module);
    if (amcf == NULL) {
        return;
    }

    zones = amcf->zones.elts;

    for (i = 0; i < amcf->zones.nelts; i++) {
        ngx_asana_zone_close(zones[i]->zone);
    }
}
