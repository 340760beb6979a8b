# Tests for an application that fails on a slow disk: for many webhooks at once,
# notes of that leave room for handshakes; none of them is lost.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(raw request response sign wait_for);
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

# a failure that the zone does not hold: a commit moves on while it is verified,
# and its key is read before it is written

$t = Receiver->new(
    server   => 'location /api { asana_hook_api hooks; }',
    location => 'try_files /none /fails;'
);
($conf = $t->conf)
    =~ s/(server_name localhost;)/$1 location = \/fails { return 500; }/;
$disk = Shim->new($t);
$t->run($conf);
sub new_one { return $t->call('GET', '/api/hooks?key=localhost/new')->{body} }

is $t->handshake('/new', $secret)->{status}, 200, 'a handshake';
my $done = $disk->syncs;
$disk->set(stuck => $done + 2);
my $s = request($t->connection, raw('/busy', "X-Hook-Secret: $secret", ''));
ok wait_for(sub { $disk->syncs == $done + 2 }), 'another one is nearly done';
is $t->deliver('/new', $secret, $body)->{status}, 500, 'a delivery fails';
$disk->set(stuck => $done + 3);
is response($s)->{status}, 200, 'the other one is done';
ok wait_for(sub { $disk->syncs == $done + 3 }), 'the note is under way';
like new_one(), qr/"code":null/, 'not yet known';
$disk->set;
ok wait_for(sub { new_one() =~ /"code":500.*"failing_since":"20/ }), 'noted';
my $second = time;
wait_for(sub { time > $second });
is $t->deliver('/new', $secret, $body)->{status}, 500, 'another one fails';
like new_one(), qr/"deliveries":[12],?/, 'is counted';
is scalar(() = $t->slurp('error.log') =~ /key "localhost\/new" .* fails/g), 1,
    'which is told once';
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
