# Tests for "if" and "limit_except": what a location is, its blocks are.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver;
use Upstream;

my $t    = Receiver->new;
my $up   = Upstream->new($t);
my $pass = "proxy_pass http://127.0.0.1:$up->{port};";
my $app  = "proxy_pass http://127.0.0.1:$t->{app_port};";

# "X-Block: 1" leads into the blocks of "if"

my $if     = 'if ($http_x_block) { set $y 1; }';
my $limit  = 'limit_except GET { allow 127.0.0.1; deny all; }';
my %blocks = (
    'none'  => '',
    'if'    => $if,
    'two'   => 'if ($http_x_none) { set $y 1; } if ($http_x_block) { set $y 2;
        add_header X-Block yes always; }',
    'limit' => $limit,
    'both'  => "$limit $if",
);

for my $name (sort keys %blocks) {
    my $block = $blocks{$name};
    (my $below = $block) =~ s/set \$y \d;|limit_except GET \{/$& $pass/g;
    $t->{server} .= "
        location /api$name/ { asana_hook_api hooks write=on; $block }
        location /under$name/ { asana_hook hooks;
            location /under$name/api/ { asana_hook_api hooks write=on; $block }
        }
        location /gate$name { asana_hook_gateway hooks; $pass $block }
        location /passed$name { asana_hook_gateway hooks; $pass $below }
        location /hook$name/ { asana_hook hooks; $app $block }
    ";
}
$t->{server} .= "
    location = /exact { asana_hook_api hooks; $if }
    location /read/ { asana_hook_api hooks; $if $limit }
    location /deny/ { asana_hook_api hooks write=on;
        limit_except GET { deny all; } }
    location /other/ { asana_hook_api hooks; if (\$http_x_block) { $app } }
    location /inner/ { asana_hook_api hooks; $if
        location /inner/app { $app } }
";
$t->{location} = 'asana_hook_enroll confirm;';
$t->app->run;

my $n = 0;
sub secret { return sprintf 'secret-%04d-%s', ++$n, 'b' x 40 }

for my $name (sort keys %blocks) {
    for my $prefix ("/api$name/", "/under$name/api/") {
        for my $block ([], ['X-Block: 1']) {
            my $secret = secret();
            my $uri    = "${prefix}hooks?key=k$n";
            my @got    = map { $_->{status} } (
                $t->call('GET', $prefix, $block),
                $t->call('PUT', $uri, ["X-Hook-Secret: $secret", @{$block}]),
                $t->call('GET', $uri, $block),
                $t->call('DELETE', $uri, $block),
                $t->call('POST', $prefix, $block, 'x'),
                $t->call('GET', "${prefix}x", $block)
            );
            is "@got", '200 201 200 204 405 404', "the API at $prefix @{$block}";
        }
    }
}
for my $case (['/exact', 405], ['/read/', 405], ['/deny/', 403]) {
    my ($uri, $status) = @{$case};
    is $t->call('GET', $uri, ['X-Block: 1'])->{status}, 200, "GET $uri";
    is $t->call('PUT', "$uri?key=a",
        ['X-Block: 1', 'X-Hook-Secret: ' . secret()])->{status}, $status,
        "PUT $uri: $status";
}
is $t->call('GET', '/other/')->{status}, 200, 'another handler in the block';
is $t->call('GET', '/other/', ['X-Block: 1'])->{body}, 'app',
    'goes before the API';
is $t->call('GET', '/inner/app', ['X-Block: 1'])->{body}, 'app',
    'a location below is no API';

# gateways and receivers

for my $name (sort keys %blocks) {
    for my $uri ("/gate$name", "/passed$name") {
        for my $block ([], ['X-Block: 1']) {
            my $secret = secret();
            my $hook   = "/confirmed/$n";
            $t->handshake($hook, $secret);
            my $plan = $up->plan("p$n", [send => Upstream::created($secret)],
                'close');
            is $t->call('POST', $uri, ["X-Plan: $plan", @{$block}], 'x')
                ->{status}, 201, "a create call at $uri @{$block}";
            is $t->deliver($hook, $secret, 'event')->{status}, 200,
                'confirms its secret';
        }
    }
    for my $block ([], ['X-Block: 1']) {
        my $secret = secret();
        my $uri    = "/hook$name/$n";
        my @got    = map { $_->{status} } (
            $t->call('POST', $uri, $block, 'x'),
            $t->call('POST', $uri, ["X-Hook-Secret: $secret", @{$block}], ''),
            $t->deliver($uri, $secret, 'x', @{$block}),
            $t->deliver($uri, secret(), 'x', @{$block})
        );
        is "@got", '403 200 200 403', "a receiver at $uri @{$block}";
    }
}
$t->end;

done_testing;
