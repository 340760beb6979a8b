
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


static ngx_int_t ngx_http_asana_hook_zone_pool(ngx_conf_t *cf,
    ngx_http_asana_hook_zone_t *zone);
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


char *
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

    if (ngx_http_asana_hook_zone_pool(cf, zone) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

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
ngx_http_asana_hook_zone_pool(ngx_conf_t *cf, ngx_http_asana_hook_zone_t *zone)
{
#if (NGX_THREADS)

    if (zone->thread_pool == NULL) {
        zone->thread_pool = ngx_thread_pool_add(cf, NULL);
        if (zone->thread_pool == NULL) {
            return NGX_ERROR;
        }
    }

#else

    ngx_conf_log_error(NGX_LOG_NOTICE, cf, 0,
                       "nginx was built without threads: each handshake of "
                       "the zone \"%V\" makes its worker wait for the disk",
                       &zone->name);

#endif

    return NGX_OK;
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
