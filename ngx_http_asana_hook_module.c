
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"


typedef enum {
    NGX_HTTP_ASANA_HOOK_PARAM_NONE = 0,
    NGX_HTTP_ASANA_HOOK_PARAM_ZONE,
    NGX_HTTP_ASANA_HOOK_PARAM_STATE,
    NGX_HTTP_ASANA_HOOK_PARAM_POOL,
    NGX_HTTP_ASANA_HOOK_PARAM_SIZE,
    NGX_HTTP_ASANA_HOOK_PARAM_TIME,
    NGX_HTTP_ASANA_HOOK_PARAM_NUMBER
} ngx_http_asana_hook_param_e;


typedef struct {
    ngx_str_t                      name;
    ngx_http_asana_hook_param_e    type;
    size_t                         offset;
    ngx_int_t                      preset;
    ngx_int_t                      min;
    ngx_int_t                      max;
} ngx_http_asana_hook_param_t;


static ngx_int_t ngx_http_asana_hook_status_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_asana_hook_key_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_asana_hook_secret_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);

static ngx_int_t ngx_http_asana_hook_add_variables(ngx_conf_t *cf);
static void *ngx_http_asana_hook_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_asana_hook_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_asana_hook_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_asana_hook_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_asana_hook_zone_parameter(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ssize_t *size);
static ngx_int_t ngx_http_asana_hook_zone_name(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ngx_str_t *s,
    ssize_t *size);
static ngx_int_t ngx_http_asana_hook_zone_state(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ngx_str_t *s);
static ngx_int_t ngx_http_asana_hook_zone_number(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_hook_param_t *param);
static void ngx_http_asana_hook_zone_defaults(
    ngx_http_asana_hook_zone_t *zone);
static char *ngx_http_asana_hook(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_asana_hook_enroll_value(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_asana_hook_status_code(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_asana_hook_enum(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_asana_hook_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_asana_hook_init_process(ngx_cycle_t *cycle);
static void ngx_http_asana_hook_exit_process(ngx_cycle_t *cycle);


static ngx_http_asana_hook_param_t  ngx_http_asana_hook_params[] = {

    { ngx_string("zone="), NGX_HTTP_ASANA_HOOK_PARAM_ZONE, 0, 0, 0, 0 },
    { ngx_string("state="), NGX_HTTP_ASANA_HOOK_PARAM_STATE, 0, 0, 0, 0 },
    { ngx_string("thread_pool="), NGX_HTTP_ASANA_HOOK_PARAM_POOL, 0, 0, 0, 0 },

    { ngx_string("max_size="), NGX_HTTP_ASANA_HOOK_PARAM_SIZE,
      offsetof(ngx_http_asana_hook_zone_t, max_size),
      256 * 1024 * 1024, 1024 * 1024, NGX_MAX_INT_T_VALUE },

    { ngx_string("inactive="), NGX_HTTP_ASANA_HOOK_PARAM_TIME,
      offsetof(ngx_http_asana_hook_zone_t, inactive),
      24 * 60 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("pending="), NGX_HTTP_ASANA_HOOK_PARAM_TIME,
      offsetof(ngx_http_asana_hook_zone_t, pending),
      5 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("max_secrets="), NGX_HTTP_ASANA_HOOK_PARAM_NUMBER,
      offsetof(ngx_http_asana_hook_zone_t, max_secrets), 16, 1, 1000 },

    { ngx_null_string, NGX_HTTP_ASANA_HOOK_PARAM_NONE, 0, 0, 0, 0 }
};


static ngx_conf_enum_t  ngx_http_asana_hook_log_levels[] = {
    { ngx_string("info"), NGX_LOG_INFO },
    { ngx_string("notice"), NGX_LOG_NOTICE },
    { ngx_string("warn"), NGX_LOG_WARN },
    { ngx_string("error"), NGX_LOG_ERR },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_asana_hook_heartbeats[] = {
    { ngx_string("pass"), NGX_HTTP_ASANA_HOOK_HEARTBEAT_PASS },
    { ngx_string("answer"), NGX_HTTP_ASANA_HOOK_HEARTBEAT_ANSWER },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_asana_hook_commands[] = {

    { ngx_string("asana_hook_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_asana_hook_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("asana_hook"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_hook,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("asana_hook_enroll"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_hook_enroll_value,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("asana_hook_status"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_hook_status_code,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("asana_hook_log_level"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_hook_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_hook_loc_conf_t, log_level),
      &ngx_http_asana_hook_log_levels },

    { ngx_string("asana_hook_heartbeat"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_asana_hook_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_hook_loc_conf_t, heartbeat),
      &ngx_http_asana_hook_heartbeats },

    { ngx_string("asana_hook_ack"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_asana_hook_loc_conf_t, ack),
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


static ngx_str_t  ngx_http_asana_hook_words[] = {
    ngx_null_string,
    ngx_string("HANDSHAKE"),
    ngx_string("REFUSED"),
    ngx_string("ERROR"),
    ngx_string("MALFORMED"),
    ngx_string("UNSIGNED"),
    ngx_string("UNKNOWN"),
    ngx_string("INVALID"),
    ngx_string("VERIFIED"),
    ngx_string("HEARTBEAT"),
    ngx_string("BYPASS")
};


static ngx_http_variable_t  ngx_http_asana_hook_vars[] = {

    { ngx_string("asana_hook_status"), NULL,
      ngx_http_asana_hook_status_variable, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("asana_hook_key"), NULL,
      ngx_http_asana_hook_key_variable, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("asana_hook_secret_id"), NULL,
      ngx_http_asana_hook_secret_id_variable, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_http_asana_hook_status_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = ngx_http_asana_hook_get_ctx(r->main);

    if (ctx == NULL || ctx->status == NGX_HTTP_ASANA_HOOK_NONE) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = ngx_http_asana_hook_words[ctx->status].len;
    v->data = ngx_http_asana_hook_words[ctx->status].data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_key_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = ngx_http_asana_hook_get_ctx(r->main);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = ctx->key.len;
    v->data = ctx->key.data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_secret_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = ngx_http_asana_hook_get_ctx(r->main);

    if (ctx == NULL || !ctx->identified) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = 2 * NGX_HTTP_ASANA_HOOK_ID_LEN;
    v->data = ctx->id;
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
    ngx_http_asana_hook_main_conf_t  *amcf;

    amcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_asana_hook_main_conf_t));
    if (amcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&amcf->zones, cf->pool, 1,
                       sizeof(ngx_http_asana_hook_zone_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return amcf;
}


static void *
ngx_http_asana_hook_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_palloc(cf->pool, sizeof(ngx_http_asana_hook_loc_conf_t));
    if (ahcf == NULL) {
        return NULL;
    }

    ahcf->shm_zone = NGX_CONF_UNSET_PTR;
    ahcf->enroll = NGX_CONF_UNSET_PTR;
    ahcf->status = NGX_CONF_UNSET_UINT;
    ahcf->log_level = NGX_CONF_UNSET_UINT;
    ahcf->heartbeat = NGX_CONF_UNSET_UINT;
    ahcf->ack = NGX_CONF_UNSET;

    return ahcf;
}


static char *
ngx_http_asana_hook_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_asana_hook_loc_conf_t *prev = parent;
    ngx_http_asana_hook_loc_conf_t *conf = child;

    ngx_conf_merge_ptr_value(conf->shm_zone, prev->shm_zone, NULL);
    ngx_conf_merge_ptr_value(conf->enroll, prev->enroll, NULL);
    ngx_conf_merge_uint_value(conf->status, prev->status, NGX_HTTP_FORBIDDEN);
    ngx_conf_merge_uint_value(conf->log_level, prev->log_level, NGX_LOG_ERR);
    ngx_conf_merge_uint_value(conf->heartbeat, prev->heartbeat,
                              NGX_HTTP_ASANA_HOOK_HEARTBEAT_PASS);
    ngx_conf_merge_value(conf->ack, prev->ack, 1);

    if (conf->shm_zone && conf->shm_zone->data == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook\" names the unknown zone \"%V\"; "
                           "define it with \"asana_hook_zone\"",
                           &conf->shm_zone->shm.name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_asana_hook_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_hook_main_conf_t *amcf = conf;

    ssize_t                            size;
    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_shm_zone_t                    *shm_zone;
    ngx_http_asana_hook_zone_t        *zone, **zp;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_asana_hook_zone_t));
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (value[1].len == 0) {
        return "has an empty key";
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = &zone->key;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    size = 0;

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_asana_hook_zone_parameter(cf, zone, &value[i], &size)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    if (zone->name.len == 0 || zone->state == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" must have the parameter "
                           "\"%s=\"", zone->name.len ? "state" : "zone");
        return NGX_CONF_ERROR;
    }

    ngx_http_asana_hook_zone_defaults(zone);

#if (NGX_THREADS)

    if (zone->thread_pool == NULL) {
        zone->thread_pool = ngx_thread_pool_add(cf, NULL);
        if (zone->thread_pool == NULL) {
            return NGX_CONF_ERROR;
        }
    }

#else

    ngx_conf_log_error(NGX_LOG_NOTICE, cf, 0,
                       "nginx was built without threads: each handshake of "
                       "the zone \"%V\" makes its worker wait for the disk",
                       &zone->name);

#endif

    shm_zone = ngx_shared_memory_add(cf, &zone->name, size,
                                     &ngx_http_asana_hook_module);
    if (shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" defines the zone \"%V\" twice",
                           &zone->name);
        return NGX_CONF_ERROR;
    }

    zp = ngx_array_push(&amcf->zones);
    if (zp == NULL) {
        return NGX_CONF_ERROR;
    }

    *zp = zone;
    zone->zones = &amcf->zones;

    shm_zone->init = ngx_http_asana_hook_zone_init;
    shm_zone->data = zone;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_asana_hook_zone_parameter(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ssize_t *size)
{
    ngx_str_t                     s;
    ngx_http_asana_hook_param_t  *param;

    for (param = ngx_http_asana_hook_params; param->name.len; param++) {
        if (value->len > param->name.len
            && ngx_strncmp(value->data, param->name.data, param->name.len)
               == 0)
        {
            break;
        }
    }

    s.data = value->data + param->name.len;
    s.len = value->len - param->name.len;

    switch (param->type) {

    case NGX_HTTP_ASANA_HOOK_PARAM_ZONE:
        return ngx_http_asana_hook_zone_name(cf, zone, value, &s, size);

    case NGX_HTTP_ASANA_HOOK_PARAM_STATE:
        return ngx_http_asana_hook_zone_state(cf, zone, value, &s);

    case NGX_HTTP_ASANA_HOOK_PARAM_POOL:
#if (NGX_THREADS)
        zone->thread_pool = ngx_thread_pool_add(cf, &s);
        return zone->thread_pool ? NGX_OK : NGX_ERROR;
#else
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" requires "
                           "nginx built with threads", value);
        return NGX_ERROR;
#endif

    case NGX_HTTP_ASANA_HOOK_PARAM_NONE:
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\"",
                           value);
        return NGX_ERROR;

    default:
        return ngx_http_asana_hook_zone_number(cf, zone, value, &s, param);
    }
}


static ngx_int_t
ngx_http_asana_hook_zone_name(ngx_conf_t *cf, ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *value, ngx_str_t *s, ssize_t *size)
{
    u_char     *p;
    ngx_str_t   bytes;

    p = ngx_strlchr(s->data, s->data + s->len, ':');

    if (p == NULL || p == s->data) {
        goto invalid;
    }

    zone->name.data = s->data;
    zone->name.len = p - s->data;

    bytes.data = p + 1;
    bytes.len = s->data + s->len - bytes.data;

    *size = ngx_parse_size(&bytes);

    if (*size == NGX_ERROR) {
        goto invalid;
    }

    if (*size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" is too small, "
                           "at least %uzk is needed", value,
                           8 * ngx_pagesize / 1024);
        return NGX_ERROR;
    }

    return NGX_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"asana_hook_zone\" parameter \"%V\", it must "
                       "be \"zone=name:size\"", value);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_hook_zone_number(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_hook_param_t *param)
{
    ngx_int_t  n;

    switch (param->type) {

    case NGX_HTTP_ASANA_HOOK_PARAM_SIZE:
        n = (ngx_int_t) ngx_parse_offset(s);
        break;

    case NGX_HTTP_ASANA_HOOK_PARAM_TIME:
        n = ngx_parse_time(s, 1);
        break;

    default: /* NGX_HTTP_ASANA_HOOK_PARAM_NUMBER */
        n = ngx_atoi(s->data, s->len);
    }

    if (n < param->min || n > param->max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\", it "
                           "must be %i to %i", value, param->min, param->max);
        return NGX_ERROR;
    }

    *(ngx_int_t *) ((u_char *) zone + param->offset) = n;

    return NGX_OK;
}


static void
ngx_http_asana_hook_zone_defaults(ngx_http_asana_hook_zone_t *zone)
{
    ngx_int_t                    *n;
    ngx_http_asana_hook_param_t  *param;

    for (param = ngx_http_asana_hook_params; param->name.len; param++) {

        if (param->min) {
            n = (ngx_int_t *) ((u_char *) zone + param->offset);

            if (*n == 0) {
                *n = param->preset;
            }
        }
    }
}


/* a path that nginx makes for its workers, as it makes "proxy_temp_path" */

static ngx_int_t
ngx_http_asana_hook_zone_state(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *value, ngx_str_t *s)
{
    ngx_uint_t                         i;
    ngx_path_t                        *path;
    ngx_http_asana_hook_zone_t       **zones;
    ngx_http_asana_hook_main_conf_t   *amcf;

    path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
    if (path == NULL) {
        return NGX_ERROR;
    }

    while (s->len > 1 && s->data[s->len - 1] == '/') {
        s->len--;
    }

    path->name.len = s->len;
    path->name.data = ngx_pnalloc(cf->pool, s->len + 1);
    if (path->name.data == NULL) {
        return NGX_ERROR;
    }

    ngx_cpystrn(path->name.data, s->data, s->len + 1);

    if (ngx_conf_full_name(cf->cycle, &path->name, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_asana_hook_module);
    zones = amcf->zones.elts;

    for (i = 0; i < amcf->zones.nelts; i++) {
        if (zones[i]->state->name.len == path->name.len
            && ngx_strcmp(zones[i]->state->name.data, path->name.data) == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"asana_hook_zone\" parameter \"%V\" is "
                               "already used by the zone \"%V\"", value,
                               &zones[i]->name);
            return NGX_ERROR;
        }
    }

    path->data = zone;
    path->conf_file = cf->conf_file->file.name.data;
    path->line = cf->conf_file->line;

    zone->state = path;

    return ngx_add_path(cf, &zone->state);
}


static char *
ngx_http_asana_hook(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_hook_loc_conf_t *ahcf = conf;

    ngx_str_t                        *value;
    ngx_http_asana_hook_main_conf_t  *amcf;

    if (ahcf->shm_zone != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        ahcf->shm_zone = NULL;
        return NGX_CONF_OK;
    }

    if (value[1].len == 0) {
        return "has an empty zone name";
    }

    ahcf->shm_zone = ngx_shared_memory_add(cf, &value[1], 0,
                                           &ngx_http_asana_hook_module);
    if (ahcf->shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_asana_hook_module);
    amcf->enabled = 1;

    return NGX_CONF_OK;
}


static char *
ngx_http_asana_hook_enroll_value(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_asana_hook_loc_conf_t *ahcf = conf;

    char                          *rv;
    ngx_str_t                     *value;
    ngx_http_asana_hook_policy_e   policy;

    cmd->offset = offsetof(ngx_http_asana_hook_loc_conf_t, enroll);

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK || ahcf->enroll->lengths) {
        return rv;
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "confirm") == 0
        || ngx_strcmp(value[1].data, "register") == 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_enroll %V\" is not available in this "
                           "version; use \"first\", \"open\" or \"off\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_asana_hook_policy(&value[1], &policy) == NGX_OK) {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"asana_hook_enroll\", it must "
                       "be \"first\", \"open\" or \"off\"", &value[1]);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_asana_hook_status_code(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_hook_loc_conf_t *ahcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value;

    if (ahcf->status != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_atoi(value[1].data, value[1].len);

    /* to Asana 410 says that the webhook may be deleted */

    if (n < 400 || n > 599 || n == 410) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"asana_hook_status\", it "
                           "must be 400 to 599 and not 410", &value[1]);
        return NGX_CONF_ERROR;
    }

    ahcf->status = n;

    return NGX_CONF_OK;
}


/* as ngx_conf_set_enum_slot(), with an error that names the directive */

static char *
ngx_http_asana_hook_enum(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t        *value;
    ngx_uint_t       *np;
    ngx_conf_enum_t  *e;

    np = (ngx_uint_t *) ((u_char *) conf + cmd->offset);

    if (*np != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (e = cmd->post; e->name.len; e++) {
        if (ngx_strcmp(e->name.data, value[1].data) == 0) {
            *np = e->value;
            return NGX_CONF_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"%V\" directive", &value[1],
                       &cmd->name);

    return NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_asana_hook_init(ngx_conf_t *cf)
{
    ngx_http_handler_pt              *h;
    ngx_http_core_main_conf_t        *cmcf;
    ngx_http_asana_hook_main_conf_t  *amcf;

    amcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_asana_hook_module);

    if (!amcf->enabled) {
        return NGX_OK;
    }

    amcf->hmac = ngx_http_asana_hook_hmac_create(cf->pool, cf->log);
    if (amcf->hmac == NULL) {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_asana_hook_handler;

    ngx_http_asana_hook_ack_init();

    return NGX_OK;
}


/* a worker that cannot use its store must live: it is tried again later */

static ngx_int_t
ngx_http_asana_hook_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                        i;
    ngx_http_asana_hook_zone_t      **zones;
    ngx_http_asana_hook_main_conf_t  *amcf;

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
        if (ngx_http_asana_hook_zone_open(zones[i], cycle) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_asana_hook_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                        i;
    ngx_http_asana_hook_zone_t      **zones;
    ngx_http_asana_hook_main_conf_t  *amcf;

    amcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_asana_hook_module);
    if (amcf == NULL) {
        return;
    }

    zones = amcf->zones.elts;

    for (i = 0; i < amcf->zones.nelts; i++) {
        ngx_http_asana_hook_zone_close(zones[i], cycle->log);
    }
}
