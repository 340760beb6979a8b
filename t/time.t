# Tests for time, by a clock that runs ahead: what counts for how long, with
# the values that are the defaults.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request wait_for);
use Shim;
use Upstream;

Shim->usable;

my $minute = 60;
my $hour   = 60 * $minute;
my $day    = 24 * $hour;

my $n     = 0;
my $event = '{"events":[{"action":"changed"}]}';

sub secret { return sprintf 'secret-%04d-%s', ++$n, 't' x 40 }

my $t  = Receiver->new;
my $up = Upstream->new($t);
$t->{server} = <<"END";
    location /confirm {
        asana_hook hooks;
        asana_hook_enroll confirm;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location /register {
        asana_hook hooks;
        asana_hook_enroll gateway;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location = /create {
        asana_hook_gateway hooks;
        proxy_pass http://127.0.0.1:$up->{port};
        proxy_ignore_client_abort on;
    }
    location /api { asana_hook_api hooks write=on; }
END

my $clock = Shim->new($t);

# Each request reads the time when the event loop has turned.

sub at {
    my ($ahead, @disk) = @_;
    $clock->set(ahead => $ahead, @disk);
    $t->call('GET', '/api/') for 1 .. 2;
    return;
}

sub event { my ($uri, $secret) = @_; return $t->deliver($uri, $secret, $event) }

sub state_of {
    my ($uri) = @_;
    my $json = $t->call('GET', "/api/hooks?key=localhost$uri")->{body};
    return join ' ', $json =~ /"state":"(\w+)"/g;
}

sub commits {
    my ($n) = $t->call('GET', '/api/')->{body} =~ /"commits":(\d+)/;
    return $n;
}

$t->app->run;

# active: for a day after the handshake, then replaced by a new one

my ($own, $other) = (secret(), secret());
is $t->handshake('/a', $own)->{status}, 200, 'a handshake';
at($day - 10);
is state_of('/a'), 'active', 'active for a day';
is $t->handshake('/a', $other)->{status}, 403, 'no other one is accepted';
at($day);
is state_of('/a'), 'inactive', 'inactive after it';
is $t->handshake('/a', $other)->{status}, 200, 'another one is accepted';
is event('/a', $own)->{status},   403, 'and takes its place';
is event('/a', $other)->{status}, 200, 'by itself';

# a jump forward makes it inactive, but not invalid; a delivery wakes it, also
# while the disk has not taken note of that

at(400 * $day, delay_ms => 300);
is state_of('/a'), 'inactive', 'a year later: inactive';
is event('/a', $other)->{status}, 200, 'it verifies';
is state_of('/a'), 'active', 'and is active by it';
is $t->handshake('/a', $own)->{status}, 403, 'so no other one is accepted';

# a clock that is set back does no harm

at(390 * $day);
is state_of('/a'), 'active', 'the clock is set back: active';
is event('/a', $other)->{status}, 200, 'it verifies';
is $t->handshake('/a', $own)->{status}, 403, 'no other one is accepted';
at(400 * $day);

# a heartbeat every 8 hours keeps it active, also over restarts

for my $beat (1 .. 6) {
    at(400 * $day + $beat * 8 * $hour);
    my $was = commits();
    is $t->deliver('/a', $other, '{"events":[]}')->{status}, 200,
        "heartbeat $beat";
    ok wait_for(sub { commits() > $was }), 'is noted';
}
$t->stop;
$t->start;
at(402 * $day + 23 * $hour);
is state_of('/a'), 'active', 'after a restart: active for a day since';
is $t->handshake('/a', $own)->{status}, 403, 'no other one is accepted';
at(403 * $day + $minute);
is state_of('/a'), 'inactive', 'no longer than that';

# the time of a delivery is written at most once an hour

at(410 * $day);
my $before = commits();
is event('/a', $other)->{status}, 200, 'a delivery';
ok wait_for(sub { commits() > $before }), 'its time is written';
$before = commits();
at(410 * $day + 59 * $minute);
event('/a', $other) for 1 .. 5;
is commits(), $before, 'none within the hour';
at(410 * $day + 61 * $minute);
event('/a', $other) for 1 .. 5;
ok wait_for(sub { commits() > $before }), 'one after it';
is commits(), $before + 1, 'for all of them';

# pending: five minutes

my $late = secret();
is $t->handshake('/confirm', $_)->{status}, 200, 'a pending secret'
    for $own, $late;
at(410 * $day + 66 * $minute - 10);
is event('/confirm', $own)->{status}, 503, 'waits for five minutes';
is $t->call('PUT', '/api/hooks?key=localhost/confirm',
    ["X-Hook-Secret: $own"])->{status}, 200, 'confirmed in time';
at(410 * $day + 66 * $minute + 10);
is event('/confirm', $own)->{status}, 200, 'it verifies';
is event('/confirm', $late)->{status}, 403, 'the other one is over';
is state_of('/confirm'), 'active', 'and is not listed';

# a create call keeps the door open for a minute

sub door {
    return $t->handshake('/register/' . ++$n, secret())->{status};
}

my $plan = $up->plan('slow', [gate => 'go'],
    [send => Upstream::created(secret())]);
is door(), 403, 'without a create call the door is shut';
my $s = $up->call('/create', $plan);
$up->reached($plan);
is door(), 200, 'a create call opens it';
at(411 * $day);
is door(), 403, 'no longer than a minute';
my $second = $up->plan('second', [gate => 'go'],
    [send => Upstream::created(secret())]);
my $s2 = $up->call('/create', $second);
$up->reached($second);
is door(), 200, 'another one opens it again';
at(411 * $day + 50);
is door(), 200, 'for nearly a minute';
at(411 * $day + 61);
is door(), 403, 'and no longer';
$up->open('go');
close $_ for $s, $s2;

# a clock that was a year ahead for a moment: what it left counts as now

my $now = 420 * $day;
at($now + 365 * $day);
my ($live, $dead, $next) = (secret(), secret(), secret());
is $t->handshake("/ahead/$_->[0]", $_->[1])->{status}, 200, 'a handshake'
    for ['live', $live], ['dead', $dead], ['fresh', $next];
is event('/ahead/live', $live)->{status}, 200, 'a delivery';
is event('/ahead/dead', $dead)->{status}, 200, 'another';
my $ahead = secret();
is $t->handshake('/confirm/ahead', $ahead)->{status}, 200, 'a pending secret';
at($now);
is event('/ahead/live', $live)->{status}, 200, 'back: it verifies';
for my $key (qw(live dead fresh)) {
    is $t->handshake("/ahead/$key", secret())->{status}, 403,
        "$key: no other one is accepted";
}
is event('/confirm/ahead', $ahead)->{status}, 503, 'pending';
is $t->handshake('/a/other', secret())->{status}, 200, 'a handshake';
$t->stop;
$t->start;
at($now + 301);
is event('/confirm/ahead', $ahead)->{status}, 403, 'for five minutes';
at($now + $day + $minute);
for my $key (qw(live dead fresh)) {
    is state_of("/ahead/$key"), 'inactive', "$key: inactive a day later";
    is $t->handshake("/ahead/$key", secret())->{status}, 200,
        'and replaced';
}

$t->end;

# pending secrets of that moment push no genuine one out

$t = Receiver->new(zone => 'max_size=1m',
    location => 'asana_hook_enroll confirm;',
    server   => 'location /api { asana_hook_api hooks write=on; }');
$clock = Shim->new($t);
$t->app->run;
at(365 * $day);
$t->handshake("/flood/$_", secret()) for 1 .. 64;
at(0);
my $genuine = secret();
is $t->handshake('/genuine', $genuine)->{status}, 200, 'a genuine one';
is scalar(grep { $t->handshake("/late/$_", secret())->{status} == 200 }
        1 .. 20), 20, 'and others after it';
is event('/genuine', $genuine)->{status}, 503, 'is still pending';

$t->end;

# a clock that ran ahead hides no failure when it is right again

$t = Receiver->new(server => 'location /api { asana_hook_api hooks write=on; }');
$clock = Shim->new($t);
$t->app->run;

sub health_of {
    my ($uri) = @_;
    my $json = $t->call('GET', "/api/hooks?key=localhost$uri")->{body};
    return join ' ', $json =~ /"health":"(\w+)"/g;
}

at(2 * $day);
my ($fails, $silent) = (secret(), secret());
$t->handshake('/fails',  $fails);
$t->handshake('/silent', $silent);
event('/fails', $fails);
ok wait_for(sub { health_of('/fails') eq 'ok ok' }), 'one is well';
$t->handshake('/settle', secret());

# the note of the other one is written when the clock is right again

my $syncs = $clock->syncs;
$clock->set(ahead => 2 * $day, stuck => $syncs + 1);
event('/silent', $silent);
is health_of('/silent'), 'ok ok', 'another one, too';
ok wait_for(sub { $clock->syncs > $syncs }), 'which is to be written';
$clock->set(stuck => $syncs + 1);
is health_of($_), 'ok ok', "$_: so it is in the past" for '/fails', '/silent';
at(0);
$t->handshake('/settle', secret());
$t->answer(500);
ok wait_for(sub { event('/fails', $fails); health_of('/fails') =~ /failing/ }),
    'a failure is one';
at(10 * $hour);
is health_of('/silent'), 'late late', 'nothing for 10 hours is late';

$t->end;

done_testing;
