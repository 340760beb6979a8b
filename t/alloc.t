# Tests for failures: memory, OpenSSL, LMDB and nginx refuse each call of the
# module in turn.  What was not checked does not pass, what was not stored is
# not echoed, and nothing is left behind.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(sign wait_for);
use Wrap;

Wrap->usable;

my $t = Receiver->new(
    expect => qr/the store's thread cannot be heard/,
    server => 'client_body_buffer_size 1k;
        location /api { asana_hook_api hooks write=on; }
        location /confirm {
            asana_hook hooks; asana_hook_enroll confirm; return 200;
        }
        location = /create {
            asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
        }'
);
$t->{server} =~ s/APP/$t->{app_port}/;
$t->{server} =~ s/return 200;/proxy_pass http:\/\/127.0.0.1:$t->{app_port};/;
my $wrap = Wrap->new($t);
$t->app->run;

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $large  = '{"events":[' . '{},' x 50_000 . '{}]}';
my $fresh  = 0;

sub probe {
    return $t->handshake('/probe' . ++$fresh, $secret)->{status} == 200;
}

sub descriptors {
    my ($worker) = $t->workers;
    return scalar(my @fd = glob "/proc/$worker/fd/*");
}

# A store that failed is tried again a second later.

sub recover {
    return wait_for(\&probe, 20) || BAIL_OUT('the module does not recover');
}

sub walk {
    my ($name, $request, $judge, %opt) = @_;
    return $wrap->walk($name, $request, $judge, recover => \&recover, %opt);
}

sub failed {
    my ($r, $seen) = @_;
    return 'reached the application'    if $seen;
    return 'echoed'                     if $r->{head} =~ /^X-Hook-Secret/mi;
    return 'neither 500 nor 503'        if $r->{status} !~ /^(0|500|503)$/;
    return;
}

# What a failure may leave as it is: "passed" is a pattern of names.

sub delivered {
    my ($passed) = @_;
    return sub {
        my ($r, $seen, $name) = @_;
        return failed($r, $seen) if $r->{status} != 200;
        return 'not seen'        if $seen != 1;
        return $name =~ /^($passed)$/ ? undef : 'passed';
    };
}

sub rejected {
    my ($r, $seen) = @_;
    return $seen ? 'reached the application' : undef if $r->{status} == 403;
    return failed($r, $seen);
}

is $t->handshake('/a', $secret)->{status}, 200, 'a secret';
is $t->deliver('/a', $secret, $body)->{status}, 200, 'proved';
my $key;

# the time of a delivery is written in a thread, which is not waited for

my $noting = 'ngx_c?alloc|ngx_slab_alloc_locked|mdb_.*|pthread_create|pipe|read'
    . '|ngx_(get_connection|nonblocking|handle_read_event)'
    . '|access|f?stat64|(open|fcntl|posix_fallocate)64';

my ($worker) = $t->workers;
my $open = descriptors();
my $blocks = $wrap->state->{blocks};

for my $sticky (0, 1) {
    my $all = $sticky ? 'all from one on' : 'one';
    my @opt = (sticky => $sticky);

    walk(
        "handshake, $all fails",
        sub { $key = '/h' . ++$fresh; return $t->handshake($key, $secret) },
        sub {
            my ($r, $seen) = @_;
            return failed($r, $seen) if $r->{status} != 200;
            return 'no echo'
                if $r->{head} !~ /^X-Hook-Secret: \Q$secret\E\r$/m;
            recover();
            return if $t->deliver($key, $secret, $body)->{status} == 200;
            return 'echoed, but not stored';
        },
        @opt
    );
    walk(
        "repeated handshake, $all fails",
        sub { return $t->handshake('/a', $secret) },
        sub {
            my ($r, $seen) = @_;
            return $r->{status} == 200
                && $r->{head} =~ /^X-Hook-Secret: \Q$secret\E\r$/m
                ? undef : failed($r, $seen);
        },
        @opt
    );

    # the first one after a change of the store, and one from the zone
    walk(
        "delivery, $all fails",
        sub { return $t->deliver('/a', $secret, $body) },
        delivered($noting), @opt
    );
    walk(
        "delivery from the zone, $all fails",
        sub { return $t->deliver('/a', $secret, $body) },
        delivered('mdb_env_info'), @opt,
        prepare => sub { $t->deliver('/a', $secret, $body) }
    );
    walk(
        "large delivery, $all fails",
        sub { return $t->deliver('/a', $secret, $large) },
        delivered($noting), @opt
    );
    walk(
        "first delivery, $all fails",
        sub { return $t->deliver($key, $secret, $body) },
        delivered($noting), @opt,
        prepare => sub { $key = '/f' . ++$fresh; $t->handshake($key, $secret) }
    );

    for my $text ($body, $large) {
        walk(
            'wrong signature over ' . length($text) . " bytes, $all fails",
            sub {
                return $t->call('POST', '/a',
                    ['X-Hook-Signature: ' . sign($secret, "$text ")], $text);
            },
            \&rejected, @opt
        );
    }
    walk(
        "PUT, $all fails",
        sub {
            $key = '/p' . ++$fresh;
            return $t->call('PUT', "/api/hooks?key=localhost$key",
                ["X-Hook-Secret: $secret"]);
        },
        sub {
            my ($r, $seen) = @_;
            return failed($r, $seen) if $r->{status} != 201;
            recover();
            return if $t->deliver($key, $secret, $body)->{status} == 200;
            return 'created, but not stored';
        },
        @opt
    );
    walk(
        "DELETE, $all fails",
        sub {
            return $t->call('DELETE', "/api/hooks?key=localhost$key");
        },
        sub {
            my ($r, $seen) = @_;
            return failed($r, $seen) if $r->{status} != 204;
            recover();
            return if $t->deliver($key, $secret, $body)->{status} == 403;
            return 'gone, but still there';
        },
        @opt,
        prepare => sub { $key = '/d' . ++$fresh; $t->handshake($key, $secret) }
    );

    for my $uri ('hooks?key=localhost/a', 'hooks?limit=3', '', 'metrics') {
        walk(
            "GET /$uri, $all fails",
            sub { return $t->call('GET', "/api/$uri") },
            sub {
                my ($r, $seen) = @_;
                return failed($r, $seen) if $r->{status} != 200;
                my $end    = $uri eq 'metrics' ? qr/\n$/ : qr/\}\n$/;
                my $length = length $r->{body};
                return 'cut short'
                    if $r->{body} !~ $end
                    || $r->{head} !~ /^Content-Length: $length\r$/m;
                return;
            },
            @opt
        );
    }
}

# the answer to a create call passes as it is, and what is CONFIRMED is active

for my $sticky (0, 1) {
    my ($own, $answer);
    walk(
        'create call, ' . ($sticky ? 'all from one on fails' : 'one fails'),
        sub { return $t->call('POST', '/create', [], 'x') },
        sub {
            my ($r) = @_;
            my @words = $t->slurp('access.log')
                =~ m{^POST /create \d+ \[(.*?)\]}mg;
            $t->answer(200, '', 'app');
            recover();
            my $verifies = $t->deliver($key, $own, $body)->{status};
            return 'CONFIRMED and not active'
                if $words[-1] eq 'CONFIRMED' && $verifies != 200;
            return if $r->{status} =~ /^(0|500|503)$/;
            return $r->{status} == 201 && $r->{body} eq $answer
                ? undef : 'the answer was changed';
        },
        sticky  => $sticky,
        prepare => sub {
            $key = '/confirm/' . ++$fresh;
            $own = sprintf 'own-secret-%020d', $fresh;
            $answer = qq({"X-Hook-Secret":"$own"});
            $t->handshake($key, $own);
            $t->answer(201, '', $answer);
        }
    );
}

# a store that is full in the middle of it

walk(
    'handshake, LMDB is full',
    sub { $key = '/m' . ++$fresh; return $t->handshake($key, $secret) },
    sub {
        my ($r, $seen) = @_;
        return failed($r, $seen) if $r->{status} != 200;
        recover();
        return if $t->deliver($key, $secret, $body)->{status} == 200;
        return 'echoed, but not stored';
    },
    err => -30792
);

recover();
is join(' ', $t->workers), $worker, 'the worker has lived through it';
is $t->deliver('/a', $secret, $body)->{status}, 200, 'and verifies';
is $t->deliver('/a', 'x' x 16,  $body)->{status}, 403, 'and rejects';

ok wait_for(sub { descriptors() <= $open }, 10), 'no connection is left'
    or diag descriptors() . " instead of $open";
my $state = $wrap->state;
cmp_ok $state->{blocks}, '<=', $blocks, 'no block of memory';
cmp_ok $state->{txns},    '<=', 1, 'no transaction but the parked one';
cmp_ok $state->{cursors}, '<=', 1, 'and its cursor';

$t->secrecy($secret);
$t->end;

done_testing;
