# Tests for failures, once more: calls that fail in a store that is new, full
# or just opened, for a key with many secrets, and where the policy is a
# variable.

use strict;
use warnings;

use lib 't/lib';

use File::Path qw(remove_tree);
use Test::More;

use Receiver qw(raw request response sign wait_for);
use Wrap;

Wrap->usable;

my $t = Receiver->new(
    expect => qr/the store's thread cannot be heard/,
    zone   => 'max_secrets=3 pending=1h',
    http   => 'asana_hook_zone $uri zone=full:1m state=DIR/full max_size=1m '
        . 'pending=1h;',
    server => 'location /api { asana_hook_api hooks write=on; }
        location /api-full { asana_hook_api full write=on; }
        location /full { asana_hook full; asana_hook_enroll $arg_p;
            proxy_pass http://127.0.0.1:APP; }
        location = /create {
            asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
        }',
    location => 'asana_hook_enroll $arg_p;'
);
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->{http} =~ s/DIR/$t->{dir}/;
$t->write_file('key', "@{['0123456789abcdef' x 4]}\n");
chmod 0600, "$t->{dir}/key" or die $!;
$t->{zone} .= " encryption_key=$t->{dir}/key";
my $wrap = Wrap->new($t);
$t->app->run;

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $fresh  = 0;

# a store that failed is tried again a second later

sub recover {
    return wait_for(sub {
        my $uri = '/probe' . ++$fresh;
        return $t->handshake("$uri?p=first", $secret)->{status} == 200
            && $t->call('DELETE', "/api/hooks?key=localhost$uri")->{status}
                == 204;
    }, 20) || BAIL_OUT('the module does not recover');
}

sub recover_full {
    return wait_for(sub {
        $t->call('DELETE', '/api-full/hooks?key=none')->{status} == 404;
    }, 20) || BAIL_OUT('the module does not recover');
}

sub walk {
    my ($name, $request, $judge, %opt) = @_;
    return $wrap->walk($name, $request, $judge, recover => \&recover, %opt);
}

# a worker that answers has opened its store

sub ready {
    my ($nginx) = @_;
    return wait_for(sub { $nginx->call('GET', '/')->{status} == 200 });
}

sub failed {
    my ($r, $seen) = @_;
    return 'reached the application' if $seen;
    return 'echoed'                  if $r->{head} =~ /^X-Hook-Secret/mi;
    return 'neither 500 nor 503'     if $r->{status} !~ /^(?:0|500|503)$/;
    return;
}

sub verifies {
    my ($uri, $s) = @_;
    return $t->deliver($uri, $s, $body)->{status} == 200;
}

# What passes is in order if no look-up was needed for it.

sub delivered {
    my ($r, $seen, $name) = @_;
    return failed($r, $seen) if $r->{status} != 200;
    return 'not seen'        if $seen != 1;
    return if $name =~ /^(?:ngx_calloc|ngx_slab_alloc_locked|mdb_.*|pipe|read
        |pthread_create|ngx_(?:get_connection|nonblocking|handle_read_event)
        |access|f?stat64|(?:open|fcntl|posix_fallocate)64)$/x;
    return 'passed';
}

# a key with more secrets than a request has room for

for my $n (1 .. 3) {
    $t->handshake('/many?p=open', "$secret$n");
    ok wait_for(sub { verifies('/many', "$secret$n") }), "secret $n of a key";
}
walk(
    'delivery of a key with three secrets',
    sub { return $t->deliver('/many', "${secret}2", $body) },
    \&delivered,
    prepare => sub { $t->deliver('/many', "${secret}1", $body) }
);

# a pending one: events are rejected, whatever fails

$t->handshake('/pending?p=confirm', $secret);
walk(
    'delivery of a pending secret',
    sub { return $t->deliver('/pending', $secret, $body) }, \&failed
);

# the store has moved on while the body came

my $s;
walk(
    'delivery of a store that moved on',
    sub {
        request($s, $body);
        my $r = response($s);
        close $s;
        return $r;
    },
    \&delivered,
    prepare => sub {
        (my $head = raw('/many', 'X-Hook-Signature: '
                . sign("${secret}1", $body), $body)) =~ s/(\r\n\r\n).*/$1/s;
        $s = $t->connection;
        request($s, $head);
        recover();
    }
);

# the first look-up of a worker

ok verifies('/many', "${secret}1"), 'a secret that a new worker looks up';
walk(
    'the first delivery of a worker',
    sub { return $t->deliver('/many', "${secret}1", $body) },
    \&delivered,
    prepare => sub { $t->reload; ready($t) }
);

# a create call whose secret never came, or came by another policy

my $answer;
for my $known (0, 1) {
    walk(
        'create call, ' . ($known ? 'accepted at once' : 'unknown'),
        sub { return $t->call('POST', '/create', [], 'x') },
        sub {
            my ($r) = @_;
            my @words = $t->slurp('access.log')
                =~ m{^POST /create \d+ \[(.*?)\]}mg;
            return 'CONFIRMED' if !$known && $words[-1] eq 'CONFIRMED';
            return if $r->{status} =~ /^(?:0|500|503)$/;
            return $r->{status} == 201 && $r->{body} eq $answer
                ? undef : 'the answer was changed';
        },
        prepare => sub {
            my $uri = '/made' . ++$fresh;
            my $own = sprintf 'own-secret-%020d', $fresh;
            $answer = qq({"X-Hook-Secret":"$own"});
            $t->handshake("$uri?p=first", $own) if $known;
            $t->answer(201, '', $answer);
        },
        recover => sub { $t->answer(200, '', 'app'); recover() }
    );
}
$t->answer(200, '', 'app');

# the API's other answers

for my $case (['POST', ''], ['OPTIONS', ''], ['GET', '?key=none'],
    ['GET', '?key=1&limit=1'], ['PUT', ''])
{
    my ($method, $args) = @$case;
    walk(
        "$method /hooks$args",
        sub { return $t->call($method, "/api/hooks$args") },
        sub {
            my ($r) = @_;
            return if $r->{status} =~ /^(?:0|500|503)$/;
            return $r->{status} =~ /^(?:204|40[045])$/ ? undef : 'passed';
        },
        least => 3
    );
}

# a full store: nothing is worth less than what comes

my $pad  = 'p' x 200;
my $held = 0;
$held++ while $t->call('PUT', "/api-full/hooks?key=/full/$held",
    ["X-Hook-Secret: $secret$pad"])->{status} == 201;
cmp_ok $held, '>', 200, 'a store that is full';
walk(
    'handshake at a full store',
    sub {
        my $uri = '/full/new' . ++$fresh;
        return $t->handshake("$uri?p=first", $secret);
    },
    sub {
        my ($r, $seen) = @_;
        return $r->{status} == 200 ? 'found room' : failed($r, $seen);
    },
    recover => \&recover_full
);
is scalar(grep { !verifies("/full/$_", "$secret$pad") } 0 .. $held - 1), 0,
    'what it held is there';

# a store of which nothing is there yet

my $first = Receiver->new(
    expect   => qr/the store's thread cannot be heard/,
    zone     => 'pending=1h',
    location => 'asana_hook_enroll confirm;'
);
$wrap = Wrap->new($first);
$first->app->run;
$wrap->walk(
    'the first handshake of a store',
    sub { return $first->handshake('/a', $secret) },
    sub {
        my ($r, $seen) = @_;
        return failed($r, $seen) if $r->{status} != 200;
        return $first->deliver('/a', $secret, $body)->{status} == 503
            ? undef : 'echoed, but not stored';
    },
    recover => sub {
        $first->stop;
        remove_tree("$first->{dir}/state");
        $first->start;
        ready($first);
    }
);
is $first->handshake('/a', $secret)->{status}, 200, 'then it works';
$first->secrecy($secret);
$first->end;

$t->secrecy($secret);
$t->end;

done_testing;
