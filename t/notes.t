# Tests for an application that fails for many webhooks at once, on a slow disk:
# notes of that leave room for handshakes.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(raw sign wait_for);
use Shim;

Shim->usable;

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $n      = 1500;

my $t = Receiver->new(
    server   => 'location /api { asana_hook_api hooks; }',
    location => 'try_files /none /fails;',
    http     => 'keepalive_requests 100000;'
);
my $conf = $t->conf;
$conf =~ s/(server_name localhost;)/$1 location = \/fails { return 500; }/;
$conf =~ s/zone=hooks:1m/zone=hooks:8m/;
my $disk = Shim->new($t);
$t->run($conf);

is scalar(grep { $_->{status} != 200 } $t->many(map {
    raw("/a/$_", "X-Hook-Secret: $secret", '') } 1 .. $n)), 0, 'handshakes';
$disk->set(delay_ms => 700);
is scalar(grep { $_->{status} != 500 } $t->many(map {
    raw("/a/$_", 'X-Hook-Signature: ' . sign($secret, $body), $body)
} 1 .. $n)), 0, 'all of them fail';
is $t->handshake('/b', $secret)->{status}, 200, 'a handshake all the same';
unlike $t->slurp('error.log'), qr/changes wait already/, 'nobody was sent away';
$disk->set;
$t->end;

# nginx is stopped while a note is under way, and others wait for it

$t = Receiver->new(server => 'location /api { asana_hook_api hooks; }');
$disk = Shim->new($t);
$t->app->run;
is $t->handshake("/a/$_", $secret)->{status}, 200, "a handshake: $_" for 1 .. 4;
$disk->set(delay_ms => 300);
is $t->deliver("/a/$_", $secret, $body)->{status}, 200, "a delivery: $_"
    for 1 .. 4;
$t->stop;
$disk->set;
$t->start;
like $t->call('GET', "/api/hooks?key=localhost/a/$_")->{body},
    qr/"answered":"20/, "is stored: $_" for 1 .. 4;
$t->end;

done_testing;
