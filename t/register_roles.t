# Tests for asana_hook_gateway: which location is what, and what is refused.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver;
use Upstream;

my $own   = 'need locations of their own';
my $t     = Receiver->new(expect => qr/\[emerg\]/);
my $pass  = "proxy_pass http://127.0.0.1:$t->{app_port};";

sub conf {
    my ($r, $http, $server, $location, $more) = @_;
    return join ' ', $r->globals, 'http {', $r->globals_http,
        "asana_hook_zone \$uri zone=hooks:1m state=$r->{dir}/state;", $http,
        "server { listen 127.0.0.1:$r->{port};", $server, 'location /x {',
        $location, '}', $more || '', '} }';
}

# [name, error or '', lines in http, server, location]

my $hook = 'asana_hook hooks;';
my $gate = 'asana_hook_gateway hooks;';
for my $case (
    ['both in a location',     $own, '', '', "$hook $gate $pass"],
    ['the other way round',    $own, '', '', "$gate $hook $pass"],
    ['both in a server',       $own, '', "$hook $gate", $pass],
    ['both in http',           $own, "$hook $gate", '', $pass],
    ['both in http, one off in a location', $own, "$hook $gate", '',
        "asana_hook_gateway off; $pass"],
    ['a gateway and the API',  $own, '', '', "$gate asana_hook_api hooks;"],
    ['an unknown zone',        'names the unknown zone "other"', '', '',
        "asana_hook_gateway other; $pass"],
    ['no argument',            'invalid number of arguments', '', '',
        "asana_hook_gateway; $pass"],
    ['two arguments',          'invalid number of arguments', '', '',
        "asana_hook_gateway hooks on; $pass"],
    ['an empty name',          'has an empty zone name', '', '',
        "asana_hook_gateway ''; $pass"],
    ['twice',                  'is duplicate', '', '', "$gate $gate $pass"],
    ['off and on',             'is duplicate', '', '',
        "asana_hook_gateway off; $gate $pass"],
    ['a gateway',              '', '', '', "$gate $pass"],
    ['off',                    '', '', '', "asana_hook_gateway off; $pass"],
    ['off beside a receiver',  '', '', '',
        "$hook asana_hook_gateway off; $pass"],
    ['a receiver below a gateway', '', '', $gate, "$hook $pass"],
    ['a gateway below a receiver', '', '', $hook, "$gate $pass"],
    ['http and server differ', '', $hook, $gate, $pass],
    ['an API below a gateway', '', '', $gate, 'asana_hook_api hooks;']
) {
    my ($name, $error, @lines) = @{$case};
    my ($code, $text) = $t->test_config(conf($t, @lines));
    is $code, $error ? 1 : 0, "$name: " . ($error ? 'refused' : 'accepted')
        or diag $text;
    like $text, qr/\[emerg\] .*\Q$error\E/, 'with the reason' if $error;
}

# what a location says itself goes before what it inherits

my $n = 0;

sub roles {
    my ($what, $http, $server, $location, $more, %expected) = @_;
    my $r  = Receiver->new;
    my $up = Upstream->new($r);
    my $p  = "proxy_pass http://127.0.0.1:$up->{port};";
    s/PASS/$p/g for $server, $location, $more;
    $r->run(conf($r, $http, $server, $location, $more));
    for my $uri (sort keys %expected) {
        my $secret = sprintf 'secret-%03d-%s', ++$n, 'r' x 40;
        my $plan = $up->plan("p$n", [send => Upstream::created($secret)],
            'close');
        my $got = $r->call('POST', $uri, ["X-Plan: $plan"], 'x')->{status};
        is "$got " . join(' ', $r->words), $expected{$uri}, "$what: $uri";
    }
    $r->end;
    return;
}

roles('a receiver below a gateway', '', $gate, "$hook PASS",
    'location /c { PASS } location /i { asana_hook hooks; '
        . 'if ($arg_a) { PASS } limit_except GET { } PASS }',
    '/x' => '403 UNSIGNED', '/c' => '201 UNMATCHED',
    '/i' => '403 UNSIGNED', '/i?a=1' => '403 UNSIGNED');
roles('a gateway below a receiver', '', $hook, "$gate PASS",
    'location /r { PASS } location /o { asana_hook off; PASS }',
    '/x' => '201 UNMATCHED', '/r' => '403 UNSIGNED', '/o' => '201 -');
roles('a gateway in http', $gate, '', 'PASS',
    "location /o { asana_hook_gateway off; PASS } "
        . 'location /r { asana_hook hooks; location /r/in { PASS } PASS }',
    '/x' => '201 UNMATCHED', '/o' => '201 -', '/r' => '403 UNSIGNED',
    '/r/in' => '403 UNSIGNED');
$t->end;

done_testing;
