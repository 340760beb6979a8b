#!/usr/bin/perl

# Tests for tools/asana-sim, the Asana to test receivers against.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(hmac_sha256_hex);
use File::Temp qw(tempdir);
use FindBin;
use IO::Select;
use IO::Socket::INET;
use List::Util qw(max);
use Mojo::IOLoop;
use Mojo::JSON qw(decode_json encode_json false true);
use Mojo::Promise;
use Mojo::Server::Daemon;
use Mojo::UserAgent;
use Mojo::Util qw(b64_decode b64_encode);
use Mojolicious;
use POSIX ();
use Test::More;
use Time::Local qw(timegm);

use Slurp;

my $SIM = "$FindBin::Bin/../tools/asana-sim";
my $HOOKS = '/api/1.0/webhooks';
my $DIR = tempdir('asana_sim.XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $PARENT = $$;

my (@children, @shown, @secrets);

$SIG{ALRM} = sub { die "the tests took too long\n" };
alarm 300;

my $ca = certificates($DIR);
my $receiver = start_receiver();
my $tls_receiver = $ca && start_receiver($ca);

my $ua = Mojo::UserAgent->new(inactivity_timeout => 30, max_connections => 0);

my @short = ('--handshake-timeout', 1, '--delivery-timeout', 1);
my $main = start_sim('main', '--allow-local', '--verbose', @short);
my $other = start_sim('other', '--allow-local', '--heartbeats',
    '--secret-length', 32, '--handshake-body', 'json', '--concurrency', 2,
    '--token', 'letmein');
my $strict = start_sim('strict', '--handshake-timeout', 0.5);

test_command_line();
test_tokens();
test_create();
test_create_errors();
test_local_targets();
test_failed_handshakes();
test_in_flight();
test_read();
test_update_and_delete();
test_deliveries();
test_limits_of_success();
test_retries();
test_growing_pauses();
test_order_of_the_clock();
test_clock_runs_by_itself();
test_deletion_after_a_day();
test_gone();
test_other_options();
test_heartbeats();
test_concurrency();
test_tls() if $ca;
test_templates();
test_names();
test_list();
test_past_deliveries();
test_content();
test_state();
test_state_errors();
test_errors_of_the_control_api();
test_secrets_stay_hidden();
test_end();

done_testing();


sub test_command_line {
    my ($exit, $out, $err) = run('--help');
    is($exit, 0, '--help succeeds');
    like($out, qr/usage: asana-sim/, '--help explains');
    is($err, '', '--help is silent on stderr');

    for my $wrong (
        ['--bogus'], ['extra'], ['--listen', 'nowhere'],
        ['--listen', '127.0.0.1:65536'], ['--secret-length', '33'],
        ['--handshake-body', 'xml'], ['--concurrency', '0'],
        ['--concurrency'], ['--token', ''], ['--handshake-timeout', 'x'],
        ['--delivery-timeout', '0'], ['--tls-cert', $SIM],
        ['--ca', "$DIR/missing"], ['--state', ''], ['--state'],
    ) {
        ($exit, $out, $err) = run(@$wrong);
        is($exit, 2, "wrong: @$wrong");
        like($err, qr/\Aasana-sim: .+\n/, 'it says so on stderr');
        is($out, '', 'and nothing on stdout');
    }

    my ($port) = $main->{url} =~ /(\d+)\z/;
    ($exit, $out, $err) = run('--listen', "127.0.0.1:$port");
    is($exit, 1, 'a port in use');
    like($err, qr/cannot listen on 127\.0\.0\.1:$port/, 'is named');
    return;
}

sub test_tokens {
    my $path = "$HOOKS?workspace=1";

    for my $header (undef, 'Basic eDp5', 'Bearer', 'Bearer  ') {
        my $got = request($main, GET => $path,
            $header ? { Authorization => $header } : {});
        is($got->{code}, 401, 'no token: ' . ($header // 'no header'));
        is(error_of($got), 'Not Authorized', 'its message');
    }
    is(request($main, POST => $HOOKS, {}, 'resource=1')->{code}, 401,
        'a create call without a token');
    is(api($main, GET => $path)->{code}, 200, 'any token');

    is(request($other, GET => $path, { Authorization => 'Bearer x' })->{code},
        401, 'not the token of --token');
    is(api($other, GET => $path)->{code}, 200, 'the token of --token');
    return;
}

sub test_create {
    my $target = "$receiver/r/form?token=a%20b&x=";
    my $got = api($main, POST => $HOOKS, {},
        form => { resource => '1234', target => $target });
    is($got->{code}, 201, 'a form creates a webhook');
    like($got->{type}, qr{\Aapplication/json}, 'the answer is JSON');

    my $secret = $got->{json}{'X-Hook-Secret'};
    push @secrets, $secret;
    like($secret, qr/\A[0-9a-f]{64}\z/, 'the secret stands beside data');

    my $data = $got->{json}{data};
    like($data->{created_at}, qr/\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\z/,
        'created_at');
    is_deeply(\%$data, {
        gid                        => $data->{gid},
        resource_type              => 'webhook',
        resource                   => {
            gid           => '1234',
            resource_type => 'project',
            name          => 'Project 1234',
        },
        target                     => $target,
        active                     => false,
        created_at                 => $data->{created_at},
        last_success_at            => undef,
        last_failure_at            => undef,
        last_failure_content       => undef,
        delivery_retry_count       => 0,
        next_attempt_after         => undef,
        failure_deletion_timestamp => undef,
        filters                    => [],
    }, 'data');
    unlike($got->{text}, qr/"gid":\d/, 'gids are strings');

    my ($handshake, @more) = @{ seen('form') };
    is(@more, 0, 'one handshake');
    is($handshake->{method}, 'POST', 'its method');
    is($handshake->{url}, '/r/form?token=a%20b&x=', 'the query is kept');
    is($handshake->{secret}, $secret, 'it brings the secret');
    is($handshake->{signature}, undef, 'it is not signed');
    is($handshake->{body}, '', 'its body is empty');
    is($handshake->{length}, 0, 'with a length of 0');

    my @filters = ({ resource_type => 'task', action => 'changed',
        fields => ['name'] });
    $got = api($main, POST => $HOOKS, {}, json => { data => {
        resource => 1235, target => "$receiver/r/json",
        filters => \@filters } });
    is($got->{code}, 201, 'JSON creates a webhook');
    isnt($got->{json}{'X-Hook-Secret'}, $secret, 'its secret is its own');
    push @secrets, $got->{json}{'X-Hook-Secret'};
    is_deeply($got->{json}{data}{filters}, \@filters, 'filters are kept');
    is($got->{json}{data}{resource}{gid}, '1235', 'a number is a gid, too');

    set_mode('nocontent', { status => 204 });
    is(create($main, 'nocontent')->{code}, 201, 'a handshake answered 204');
    return;
}

sub test_create_errors {
    my %good = (resource => '1', target => "$receiver/r/errors");
    my @cases = (
        ['resource: Missing', { %good, resource => undef }],
        ['resource: Not',     { %good, resource => 'abc' }],
        ['resource: Not',     { %good, resource => {} }],
        ['target: Missing',   { %good, target => '' }],
        ['target: Not',       { %good, target => 'ftp://example.com/' }],
        ['target: Not',       { %good, target => 'http:///path' }],
        ['target: Not',       { %good, target => 'http://a b/' }],
        ['target: Not',       { %good, target => ['http://a/'] }],
        ['filters: ',         { %good, filters => {} }],
        ['filters: ',         { %good, filters => ['a'] }],
        ['filters: ',         { %good, filters => [{ action => 'eaten' }] }],
        ['filters: ',         { %good, filters => [{ fields => 'name' }] }],
        ['filters: ',         { %good, filters => [{ colour => 'red' }] }],
    );
    for my $case (@cases) {
        my ($message, $data) = @$case;
        my $got = api($main, POST => $HOOKS, {}, json => { data => $data });
        is($got->{code}, 400, "400: $message");
        like(error_of($got), qr/\A\Q$message\E/, 'it says why');
        like($got->{json}{errors}[0]{help}, qr/^For more information/,
            'and has help');
    }

    my $json = { 'Content-Type' => 'application/json' };
    for my $body ('{', '[]', '"x"', '{}', '{"data":1}', '{"resource":"1"}') {
        is(api($main, POST => $HOOKS, $json, $body)->{code}, 400,
            "400: body $body");
    }
    is(api($main, POST => $HOOKS)->{code}, 400, '400: no body');
    is(@{ seen('errors') }, 0, 'none of these made a handshake');

    is(create($main, 'twice')->{code}, 201, 'the first of its kind');
    my $got = create($main, 'twice');
    is($got->{code}, 403, 'the same resource and target again');
    like(error_of($got), qr/duplicated webhook/, 'it says why');
    is(@{ seen('twice') }, 1, 'no second handshake');
    is(create($main, 'twice', 8)->{code}, 201, 'another resource');
    return;
}

sub test_local_targets {
    for my $host (qw(localhost LOCALHOST localhost. app.localhost 127.0.0.1
        127.1 127.255.0.9 0.0.0.0 2130706433 0x7f.0.0.1 [::1]
        [::ffff:127.0.0.1])) {
        my $got = api($strict, POST => $HOOKS, {},
            form => { resource => 1, target => "http://$host:1/" });
        is($got->{code}, 403, "403: $host");
    }

    # addresses of documentation: the handshake fails, and fails only there
    for my $host (qw(192.0.2.127 198.51.100.1)) {
        my $got = api($strict, POST => $HOOKS, {},
            form => { resource => 1, target => "http://$host/" });
        is($got->{code}, 400, "not local: $host");
    }
    return;
}

sub test_failed_handshakes {
    my $message = 'The remote server did not respond with the handshake'
        . ' secret.';
    my %failing = (
        status  => { status => 201 },
        refuse  => { status => 403 },
        without => { echo => 'none' },
        wrong   => { echo => 'other' },
        double  => { echo => 'twice' },
        late    => { delay => 3 },
    );
    for my $name (sort keys %failing) {
        set_mode($name, $failing{$name});
        my $got = create($main, $name);
        is($got->{code}, 400, "400: handshake $name");
        is(error_of($got), $message, 'its message');

        set_mode($name, {});
        is(create($main, $name)->{code}, 201, 'and later it succeeds');
    }

    my $got = api($main, POST => $HOOKS, {}, form => {
        resource => 1, target => 'http://127.0.0.1:' . closed_port() });
    is($got->{code}, 400, '400: nobody listens');
    is(error_of($got), $message, 'its message');

    my @errors = map { $_->{error} } grep { $_->{type} eq 'handshake'
        && !$_->{ok} } @{ log_of($main) };
    is(@errors, 7, 'the log has the handshakes that failed');
    is((grep { !defined } @errors), 0, 'and tells why');
    return;
}

sub test_in_flight {
    set_mode('slow', { delay => 1 });
    my $started = api_p($other, POST => $HOOKS, {},
        form => { resource => 9, target => "$receiver/r/slow" });
    my ($listed, $twice, @order);

    # once the receiver has the handshake, the call is in flight
    my $arrived = sub { return $started->{done} || in_flight_p('slow') };
    my $list = sub {
        return api_p($other, GET => "$HOOKS?workspace=1")->{promise}
            ->then(sub { $listed = $_[0]; push @order, 'list' });
    };
    my $again = sub {
        return api_p($other, POST => $HOOKS, {}, form => {
            resource => 9, target => "$receiver/r/slow" })->{promise}
            ->then(sub { $twice = $_[0]; push @order, 'twice' });
    };
    my $meanwhile = until_p($arrived)->then($list)->then($again);
    my $created;
    Mojo::Promise->all($meanwhile, $started->{promise}->then(sub {
        $created = $_[0];
        push @order, 'create';
    }))->wait;

    is($created->{code}, 201, 'a slow handshake');
    push @secrets, $created->{json}{'X-Hook-Secret'};
    is("@order", 'list twice create', 'other calls are answered meanwhile');
    is_deeply($listed->{json}{data}, [], 'the webhook is not there yet');
    is($twice->{code}, 403, 'but is a duplicate already');
    api($other, DELETE => "$HOOKS/$created->{json}{data}{gid}");
    return;
}

sub test_read {
    my @gids = map { create($main, "list$_", 77)->{json}{data}{gid} } 1 .. 3;
    my $path = "$HOOKS?workspace=1&resource=77";

    my $got = api($main, GET => "$HOOKS/$gids[0]");
    is($got->{code}, 200, 'GET one');
    is($got->{json}{data}{gid}, $gids[0], 'its gid');
    ok($got->{json}{data}{active}, 'it is active');
    is_deeply([keys %{ $got->{json} }], ['data'], 'nothing beside data');

    $got = api($main, GET => $path);
    is_deeply([map { $_->{gid} } @{ $got->{json}{data} }], \@gids, 'list');
    is_deeply([sort keys %{ $got->{json}{data}[0] }],
        [qw(active gid resource resource_type target)], 'its form is short');
    is($got->{json}{next_page}, undef, 'there is no next page');
    cmp_ok(@{ api($main, GET => "$HOOKS?workspace=1")->{json}{data} }, '>', 3,
        'the resource is optional');

    $got = api($main, GET => "$path&limit=2");
    is_deeply([map { $_->{gid} } @{ $got->{json}{data} }], [@gids[0, 1]],
        'the first page');
    my $next = $got->{json}{next_page};
    $got = api($main, GET => "$path&limit=2&offset=$next->{offset}");
    is_deeply([map { $_->{gid} } @{ $got->{json}{data} }], [$gids[2]],
        'the next page');
    is($got->{json}{next_page}, undef, 'is the last');
    is_deeply(api($main, GET => "/api/1.0$next->{path}")->{json},
        $got->{json}, 'its path');
    is($next->{uri}, "$main->{url}/api/1.0$next->{path}", 'its uri');
    is(api($main, GET => "$path&limit=3")->{json}{next_page}, undef,
        'no page after a full one');

    is(error_of(api($main, GET => $HOOKS)), 'workspace: Missing input',
        'list wants a workspace');
    for my $wrong ('limit=0', 'limit=101', 'limit=x', 'offset=x') {
        is(api($main, GET => "$path&$wrong")->{code}, 400, "400: $wrong");
    }

    $got = api($main, GET =>
        "$HOOKS/$gids[0]?opt_fields=target,resource.name,nothing");
    is_deeply($got->{json}{data}, {
        gid      => $gids[0],
        target   => "$receiver/r/list1",
        resource => { gid => '77', name => 'Project 77' },
    }, 'opt_fields');
    $got = api($main, GET => "$path&opt_fields=last_success_at&limit=1");
    is_deeply($got->{json}{data},
        [{ gid => $gids[0], last_success_at => undef }],
        'opt_fields in a list');

    unlike(api($main, GET => "$HOOKS/$gids[0]")->{text}, qr/\n/, 'not pretty');
    like(api($main, GET => "$HOOKS/$gids[0]?opt_pretty")->{text},
        qr/\n +"gid"/, 'opt_pretty');
    $got = api($main, POST => "$HOOKS?opt_pretty=true&opt_fields=active", {},
        form => { resource => 78, target => "$receiver/r/pretty" });
    push @secrets, $got->{json}{'X-Hook-Secret'};
    is_deeply([sort keys %{ $got->{json}{data} }], [qw(active gid)],
        'opt_fields of the create call');
    like($got->{text}, qr/\n +"X-Hook-Secret"/, 'opt_pretty as well');

    $got = api($main, GET => "$HOOKS/999");
    is($got->{code}, 404, '404: unknown gid');
    like(error_of($got), qr/999/, 'it is named');
    is(api($main, GET => '/api/1.0/tasks')->{code}, 404, '404: other paths');
    is(request($main, GET => '/')->{code}, 404, '404: outside of the API');
    is(api($main, PATCH => $HOOKS)->{code}, 405, '405: PATCH');
    is(api($main, POST => "$HOOKS/$gids[0]")->{code}, 405, '405: POST to one');
    return;
}

sub test_update_and_delete {
    my $gid = create($main, 'update')->{json}{data}{gid};
    my @filters = ({ action => 'added' });

    my $got = api($main, PUT => "$HOOKS/$gid", {},
        json => { data => { filters => \@filters, target => 'http://x/' } });
    is($got->{code}, 200, 'PUT');
    $got = api($main, GET => "$HOOKS/$gid");
    is_deeply($got->{json}{data}{filters}, \@filters, 'the filters change');
    is($got->{json}{data}{target}, "$receiver/r/update", 'and nothing else');
    is(api($main, PUT => "$HOOKS/$gid", {}, json => { data => {} })->{code},
        400, '400: PUT without filters');
    is(api($main, PUT => "$HOOKS/999", {}, json => { data =>
        { filters => [] } })->{code}, 404, '404: PUT to an unknown gid');

    $got = api($main, DELETE => "$HOOKS/$gid");
    is($got->{code}, 200, 'DELETE');
    is_deeply($got->{json}, { data => {} }, 'its answer');
    is(api($main, GET => "$HOOKS/$gid")->{code}, 404, 'it is gone');
    is(api($main, DELETE => "$HOOKS/$gid")->{code}, 404, 'DELETE again');
    is(create($main, 'update')->{code}, 201, 'it can be created again');
    return;
}

sub test_deliveries {
    my ($gid, $secret) = hook($main, 'deliver');

    my $got = sim($main, POST => "webhooks/$gid/deliver");
    is_deeply($got->{json}, { status => 200, ok => true, error => undef,
        content => '', delivery => $got->{json}{delivery},
        retry_in => undef, deleted => false }, 'a delivery');
    my $request = last_seen('deliver');
    is($request->{signature}, hmac_sha256_hex($request->{body}, $secret),
        'it is signed');
    is($request->{secret}, undef, 'without the secret');
    is($request->{type}, 'application/json', 'its type');
    my $events = decode_json($request->{body})->{events};
    is(@$events, 1, 'one event');
    is($events->[0]{action}, 'changed', 'of the form of Asana');

    sim($main, POST => "webhooks/$gid/deliver", '{"count":3}');
    is(@{ decode_json(last_seen('deliver')->{body})->{events} }, 3,
        'three events');

    sim($main, POST => "webhooks/$gid/deliver", '{"events":[{"a":"\u00e9"}]}');
    is_deeply(decode_json(last_seen('deliver')->{body}),
        { events => [{ a => "\x{e9}" }] }, 'events of our own');

    for my $body ("{ \"events\" :\r\n[]}\0\xff\xfe", '', 'x' x 300_000) {
        sim($main, POST => "webhooks/$gid/deliver?raw=1", $body);
        $request = last_seen('deliver');
        ok($request->{body} eq $body,
            'exact bytes: ' . length($body));
        is($request->{signature}, hmac_sha256_hex($body, $secret),
            'they are signed');
    }

    sim($main, POST => "webhooks/$gid/heartbeat");
    $request = last_seen('deliver');
    is($request->{body}, '{"events":[]}', 'a heartbeat');
    is($request->{signature}, hmac_sha256_hex('{"events":[]}', $secret),
        'it is signed');

    my $data = api($main, GET => "$HOOKS/$gid")->{json}{data};
    ok(defined $data->{last_success_at}, 'last_success_at');
    is($data->{last_failure_at}, undef, 'no last_failure_at');
    return;
}

sub test_limits_of_success {
    my ($gid) = hook($main, 'success');

    my %ok = (200 => 1, 204 => 1);
    for my $status (200, 201, 202, 204, 301, 302, 400, 403, 404, 500, 503) {
        set_mode('success', { status => $status });
        my $got = sim($main, POST => "webhooks/$gid/deliver")->{json};
        is($got->{status}, $status, "answered $status");
        is(!!$got->{ok}, !!$ok{$status}, 'success or failure');
        is($got->{retry_in}, $ok{$status} ? undef : 30, 'retry_in');
    }

    set_mode('success', { delay => 3 });
    my $got = sim($main, POST => "webhooks/$gid/deliver")->{json};
    is($got->{status}, undef, 'no answer in time');
    ok(!$got->{ok}, 'is a failure');
    like($got->{error}, qr/timeout/i, 'it says so');
    like(api($main, GET => "$HOOKS/$gid")->{json}{data}{last_failure_content},
        qr/timeout/i, 'and shows it as the content');
    api($main, DELETE => "$HOOKS/$gid");
    return;
}

sub test_retries {
    my ($gid, $secret) = hook($main, 'retry');

    set_mode('retry', { status => 503, content => 'not now' });
    my $got = sim($main, POST => "webhooks/$gid/deliver")->{json};
    is_deeply($got, { status => 503, ok => false, error => undef,
        content => 'not now', delivery => $got->{delivery},
        retry_in => 30, deleted => false }, 'a failure');
    my $first = last_seen('retry');

    my $state = state_of($main, $gid);
    is($state->{delivery_retry_count}, 1, 'delivery_retry_count');
    is($state->{last_failure_content}, 'not now', 'last_failure_content');
    ok(defined $state->{$_}, $_) for qw(last_failure_at next_attempt_after
        failure_deletion_timestamp);
    is($state->{last_success_at}, undef, 'no last_success_at');
    is(@{ $state->{queue} }, 1, 'the queue');
    is($state->{queue}[0]{attempts}, 1, 'its attempts');
    is($state->{queue}[0]{bytes}, length $first->{body}, 'its bytes');

    my $made = @{ seen('retry') };
    is(advance($main, 20)->{attempts}, 0, 'too early for a retry');
    is(@{ seen('retry') }, $made, 'nothing was sent');
    is(advance($main, 10)->{attempts}, 1, 'it is due');
    my $again = last_seen('retry');
    is($again->{body}, $first->{body}, 'the same bytes again');
    is($again->{signature}, $first->{signature}, 'the same signature');
    is(state_of($main, $gid)->{delivery_retry_count}, 2, 'counted');

    set_mode('retry', {});
    is(advance($main, 60)->{attempts}, 1, 'the next one succeeds');
    $state = state_of($main, $gid);
    is($state->{delivery_retry_count}, 0, 'the count starts again');
    is_deeply($state->{queue}, [], 'the queue is empty');
    is($state->{$_}, undef, "no $_") for qw(next_attempt_after
        failure_deletion_timestamp);
    ok(defined $state->{last_success_at}, 'last_success_at');
    is($state->{last_failure_content}, 'not now', 'the last failure stays');
    is(advance($main, 7200)->{attempts}, 0, 'no more retries');
    return;
}

sub test_growing_pauses {
    my ($gid) = hook($main, 'pauses');

    set_mode('pauses', { status => 500 });
    sim($main, POST => "webhooks/$gid/deliver");
    is(advance($main, 4 * 3600)->{attempts}, 9, 'attempts of four hours');

    my @times = map { seconds_of($_->{time}) } grep { $_->{gid}
        && $_->{gid} eq $gid } @{ log_of($main) };
    my @pauses = map { 10 * int(($times[$_] - $times[$_ - 1] + 1) / 10) }
        1 .. $#times;
    is_deeply(\@pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600],
        'the pauses grow');
    api($main, DELETE => "$HOOKS/$gid");
    is(advance($main, 7200)->{attempts}, 0, 'none after a DELETE');
    return;
}

sub test_order_of_the_clock {
    my ($gid) = hook($main, 'order');

    set_mode('order', { status => 500, delay => 0.1 });
    sim($main, POST => "webhooks/$gid/deliver?raw=1", $_) for qw(a b);

    # while one call moves the clock, another waits for its turn
    my @calls = map { api_p($main, POST => '/sim/advance', {},
        '{"seconds":40}')->{promise} } 1 .. 2;
    my @moved;
    Mojo::Promise->all(@calls)->then(sub {
        @moved = map { $_->[0]{json}{attempts} } @_;
    })->wait;
    is_deeply([sort @moved], [0, 2], 'two moves of the clock, one by one');
    is(join(' ', map { $_->{body} } @{ seen('order') }), ' a b a b',
        'in the order of time, each once');
    api($main, DELETE => "$HOOKS/$gid");
    return;
}

sub test_clock_runs_by_itself {
    my ($gid) = hook($main, 'alone');

    set_mode('alone', { status => 500 });
    sim($main, POST => "webhooks/$gid/deliver");
    set_mode('alone', {});
    advance($main, 28.5);
    my $deadline = time + 10;
    my $state;
    until_p(sub {
        return api_p($main, GET => "/sim/webhooks/$gid")->{promise}
            ->then(sub {
                $state = $_[0]{json};
                return !@{ $state->{queue} } || time > $deadline;
            });
    })->wait;
    is_deeply($state->{queue}, [], 'a retry that nobody asked for');
    is(@{ seen('alone') }, 3, 'is made once');
    return;
}

sub test_deletion_after_a_day {
    my ($gid) = hook($main, 'day');
    my ($healthy) = hook($main, 'healthy');

    set_mode('day', { status => 500 });
    sim($main, POST => "webhooks/$gid/deliver");
    my $deadline = state_of($main, $gid)->{failure_deletion_timestamp};
    advance($main, 24 * 3600 - 60);
    is(state_of($main, $gid)->{failure_deletion_timestamp}, $deadline,
        'there is one deadline');
    is(api($main, GET => "$HOOKS/$gid")->{code}, 200, 'before it');
    advance($main, 60);
    is(api($main, GET => "$HOOKS/$gid")->{code}, 404, 'after it');
    is(api($main, GET => "$HOOKS/$healthy")->{code}, 200,
        'another webhook lives on');

    my ($entry) = grep { $_->{type} eq 'deleted' && $_->{gid} eq $gid }
        @{ log_of($main) };
    like($entry->{reason}, qr/24 hours/, 'the log tells why');
    is($entry->{time}, $deadline, 'and when');

    ($gid) = hook($main, 'day');
    sim($main, POST => "webhooks/$gid/deliver");
    advance($main, 23 * 3600);
    set_mode('day', {});
    ok(sim($main, POST => "webhooks/$gid/deliver")->{json}{ok},
        'a success before the deadline');
    advance($main, 24 * 3600);
    is(api($main, GET => "$HOOKS/$gid")->{code}, 200, 'saves it');
    return;
}

sub test_gone {
    my ($gid) = hook($main, 'gone');

    set_mode('gone', { status => 410 });
    my $got = sim($main, POST => "webhooks/$gid/deliver")->{json};
    is_deeply($got, { status => 410, ok => false, error => undef,
        content => '', delivery => $got->{delivery},
        retry_in => undef, deleted => true }, 'answered 410');
    is(api($main, GET => "$HOOKS/$gid")->{code}, 404, 'deletes at once');
    is(sim($main, POST => "webhooks/$gid/deliver")->{code}, 404,
        'no delivery any more');
    return;
}

sub test_other_options {
    my ($gid, $secret) = hook($other, 'other');

    like($secret, qr/\A[0-9a-f]{32}\z/, '--secret-length 32');
    my $handshake = last_seen('other');
    is($handshake->{body}, '{}', '--handshake-body json');
    is($handshake->{type}, 'application/json', 'its type');
    is($handshake->{secret}, $secret, 'its secret');
    sim($other, POST => "webhooks/$gid/heartbeat");
    is(last_seen('other')->{signature},
        hmac_sha256_hex('{"events":[]}', $secret), 'the text is the key');
    api($other, DELETE => "$HOOKS/$gid");
    return;
}

sub test_heartbeats {
    my ($gid) = hook($other, 'beat');

    is(advance($other, 8 * 3600 - 60)->{attempts}, 0,
        'the handshake counts as the first heartbeat');
    is(advance($other, 60)->{attempts}, 1, 'one after 8 hours');
    is(last_seen('beat')->{body}, '{"events":[]}', 'its body');
    is(advance($other, 24 * 3600)->{attempts}, 3, 'three a day');

    set_mode('beat', { status => 500 });
    advance($other, 32 * 3600);
    is(api($other, GET => "$HOOKS/$gid")->{code}, 404,
        'the webhook of a dead receiver is deleted');

    ($gid) = hook($main, 'quiet');
    is(advance($main, 24 * 3600)->{attempts}, 0, 'only with --heartbeats');
    return;
}

sub test_concurrency {
    my %most;
    for my $sim ($main, $other) {
        my ($gid) = hook($sim, 'many');
        set_mode('many', { delay => 0.2 });
        take_most('many');

        my @calls = map { api_p($sim, POST => "/sim/webhooks/$gid/heartbeat")
            ->{promise} } 1 .. 6;
        my @codes;
        Mojo::Promise->all(@calls)->then(sub {
            @codes = map { $_->[0]{json}{status} // 0 } @_;
        })->wait;
        is_deeply(\@codes, [(200) x 6], 'six deliveries at once');

        $most{ $sim->{name} } = take_most('many');
        set_mode('many', {});
        api($sim, DELETE => "$HOOKS/$gid");
    }
    is($most{main}, 6, 'all of them in flight');
    is($most{other}, 2, 'two in flight with --concurrency 2');
    return;
}

sub test_tls {
    my $got = api($main, POST => $HOOKS, {},
        form => { resource => 1, target => "$tls_receiver/r/tls" });
    is($got->{code}, 400, 'https: an authority that is not trusted');

    my $tls = start_sim('tls', '--allow-local', '--ca', $ca->{ca},
        '--tls-cert', $ca->{cert}, '--tls-key', $ca->{key});
    like($tls->{url}, qr/\Ahttps:/, 'it serves https');
    $ua->ca($ca->{ca});
    $got = api($tls, POST => $HOOKS, {},
        form => { resource => 1, target => "$tls_receiver/r/tls" });
    is($got->{code}, 201, 'https: an authority that is trusted');
    my $gid = $got->{json}{data}{gid};
    ok(sim($tls, POST => "webhooks/$gid/deliver")->{json}{ok},
        'a delivery over https');
    is(stop($tls, 'TERM'), 0, 'it ends');
    return;
}

sub test_templates {
    my ($gid) = hook($main, 'template');
    my $user = { gid => '1100000000000001', resource_type => 'user' };
    my $project = { gid => '1', resource_type => 'project' };
    my $task = { gid => '1300000000000001', resource_type => 'task',
        resource_subtype => 'default_task' };
    my $story = { gid => '1500000000000001', resource_type => 'story' };

    my %events = (
        'task-added'   => [['added', $task, $project]],
        'task-changed' => [['changed', $task, undef,
            { field => 'name', action => 'changed' }]],
        'task-deleted' => [['deleted', $task, undef]],
        'comment'      => [['added',
            { %$story, resource_subtype => 'comment_added' }, $task]],
        'section'      => [
            ['added', $task,
                { gid => '1400000000000001', resource_type => 'section' }],
            ['added', { %$story, resource_subtype => 'section_changed' },
                $task],
        ],
    );
    for my $name (sort keys %events) {
        is(sim($main, POST => "webhooks/$gid/deliver",
            encode_json({ template => $name }))->{code}, 200, $name);
        my $got = decode_json(last_seen('template')->{body})->{events};
        like($_->{created_at}, qr/\A\d{4}-.*Z\z/, 'its time') for @$got;
        is_deeply($got, [ map { {
            action     => $_->[0],
            resource   => $_->[1],
            parent     => $_->[2],
            user       => $user,
            created_at => $got->[0]{created_at},
            $_->[3] ? (change => $_->[3]) : (),
        } } @{ $events{$name} } ], 'its events');
    }

    sim($main, POST => "webhooks/$gid/deliver",
        '{"template":"task-added","count":3}');
    my %gids = map { $_->{resource}{gid} => 1 }
        @{ decode_json(last_seen('template')->{body})->{events} };
    is(keys %gids, 3, 'three tasks of one template');
    return;
}

sub test_names {
    my $gid = create($main, 'named?token=x', 4321)->{json}{data}{gid};

    for my $name ($gid, 4321, 'named') {
        is(state_of($main, $name)->{gid}, $gid, "by name: $name");
        is(sim($main, POST => "webhooks/$name/$_")->{json}{status}, 200, $_)
            for qw(deliver heartbeat);
    }
    my $more = create($main, 'named?token=y', 4321)->{json}{data}{gid};
    for my $name (4321, 'named') {
        my $got = sim($main, POST => "webhooks/$name/deliver");
        is($got->{code}, 400, "$name is no longer the name of one");
        like(error_of($got), qr/ several: $gid, $more\z/, 'they are listed');
    }
    api($main, DELETE => "$HOOKS/$more");
    is(state_of($main, 'named')->{gid}, $gid, 'but is again');
    is(api($main, GET => "$HOOKS/4321")->{code}, 404, 'not in the API');
    return;
}

sub test_list {
    my ($gid) = hook($main, 'listed');
    my $listed = sub {
        my ($entry) = grep { $_->{gid} eq $gid }
            @{ sim($main, GET => 'webhooks')->{json}{webhooks} };
        return $entry;
    };

    my %fresh = (gid => $gid, resource => '1',
        target => "$receiver/r/listed", active => true,
        map { $_ => undef } qw(last_attempt_at last_status last_error
            next_retry_at failing_since failure_deletion_timestamp));
    is_deeply($listed->(), \%fresh, 'a new webhook in the list');

    set_mode('listed', { status => 502 });
    sim($main, POST => "webhooks/$gid/deliver");
    my $got = $listed->();
    is($got->{last_status}, 502, 'the code of the last attempt');
    my %at = map { $_ => seconds_of($got->{$_}) } qw(last_attempt_at
        next_retry_at failing_since failure_deletion_timestamp);
    is(int($at{next_retry_at} - $at{last_attempt_at} + 0.5), 30,
        'the next retry');
    is(int($at{failure_deletion_timestamp} - $at{failing_since} + 0.5),
        24 * 3600, 'a day from failing to deletion');

    advance($main, 30);
    is($listed->()->{failing_since}, $got->{failing_since},
        'failing since the first failure');
    set_mode('listed', {});
    advance($main, 60);
    $got = $listed->();
    is_deeply($got, { %fresh, last_status => 200,
        last_attempt_at => $got->{last_attempt_at} }, 'and no longer');

    set_mode('listed', { status => 502 });
    sim($main, POST => "webhooks/$gid/deliver");
    set_mode('listed', {});
    sim($main, POST => "webhooks/$gid/deliver");
    $got = $listed->();
    is($got->{failing_since}, undef, 'a success ends failing');
    ok(defined $got->{next_retry_at}, 'but not the retry of another delivery');
    api($main, DELETE => "$HOOKS/$gid");

    ($gid) = map { $_->{json}{data}{gid} } create($main, 'listed2');
    set_mode('listed2', { delay => 3 });
    sim($main, POST => "webhooks/$gid/deliver");
    $got = $listed->();
    is($got->{last_status}, undef, 'no code without an answer');
    like($got->{last_error}, qr/timeout/i, 'but an error');
    api($main, DELETE => "$HOOKS/$gid");
    return;
}

sub test_past_deliveries {
    my ($gid, $secret) = hook($main, 'past');
    my $body = "{\"events\":[]} \xff\0";

    set_mode('past', { status => 500, content => 'sorry' });
    my $id = sim($main, POST => "webhooks/$gid/deliver?raw=1", $body)
        ->{json}{delivery};
    my $got = sim($main, GET => "deliveries/$id");
    is($got->{code}, 200, 'a past delivery');
    my $past = $got->{json};
    is_deeply($past, {
        id              => $id,
        gid             => $gid,
        target          => "$receiver/r/past",
        type            => 'delivery',
        attempts        => 1,
        status          => 500,
        ok              => false,
        error           => undef,
        content         => 'sorry',
        resend_of       => undef,
        bytes           => length $body,
        body            => $body,
        map { $_ => $past->{$_} } qw(ms created_at next_attempt_at),
    }, 'all of it');
    ok(defined $past->{next_attempt_at}, 'it will be tried again');

    set_mode('past', {});
    advance($main, 30);
    my $made = @{ seen('past') };
    $got = sim($main, POST => "deliveries/$id/resend")->{json};
    is($got->{status}, 200, 'it is sent once more');
    isnt($got->{delivery}, $id, 'as a delivery of its own');
    is(@{ seen('past') }, $made + 1, 'once');
    my $again = last_seen('past');
    is($again->{body}, $body, 'with the same bytes');
    is($again->{signature}, hmac_sha256_hex($body, $secret), 'signed');

    my @list = @{ sim($main, GET => 'deliveries?webhook=past')
        ->{json}{deliveries} };
    is_deeply([map { [$_->{id}, $_->{attempts}, $_->{status},
        $_->{next_attempt_at}, $_->{resend_of}] } @list],
        [[$id, 2, 200, undef, undef], [$got->{delivery}, 1, 200, undef, $id]],
        'the list of one webhook');
    ok(!exists $list[0]{body}, 'without bodies');
    cmp_ok(@{ sim($main, GET => 'deliveries')->{json}{deliveries} }, '>', 2,
        'the list of all');

    api($main, DELETE => "$HOOKS/$gid");
    $got = sim($main, POST => "deliveries/$id/resend");
    is($got->{code}, 404, 'not to a webhook that is deleted');
    like(error_of($got), qr/\Adelivery $id: its webhook $gid is deleted/,
        'it says so');
    is(@{ sim($main, GET => "deliveries?webhook=$gid")->{json}{deliveries} },
        2, 'its deliveries stay');

    ($gid) = hook($other, 'ring');
    $id = sim($other, POST => "webhooks/$gid/deliver?raw=1", 'x' x 9_000_000)
        ->{json}{delivery};
    is(sim($other, GET => 'deliveries?webhook=ring')
        ->{json}{deliveries}[0]{id}, $id, 'a large one');
    sim($other, POST => "deliveries/$id/resend");
    is(sim($other, GET => "deliveries/$id")->{code}, 404,
        'goes for the next large one');
    api($other, DELETE => "$HOOKS/$gid");
    return;
}

sub test_content {
    my ($gid, $secret) = hook($main, 'content');
    my $last = sub { return (grep { ($_->{gid} // '') eq $gid }
        @{ log_of($main) })[-1] };

    set_mode('content', { status => 500, content => "no\e[2J\x7f\n" });
    sim($main, POST => "webhooks/$gid/deliver");
    my $entry = $last->();
    is($entry->{content}, "no\e[2J\x7f\n", 'the answer is in the log');
    like($shown[-1], qr/"no\\u001b\[2J\\u007f\\n"/, 'escaped');
    is($entry->{delivery}, sim($main, GET => 'deliveries?webhook=content')
        ->{json}{deliveries}[-1]{id}, 'with the id of the delivery');
    ok(defined $entry->{$_}, $_) for qw(ms status);

    set_mode('content', { status => 500, content => 'y' x 5_000 });
    sim($main, POST => "webhooks/$gid/deliver");
    is($last->()->{content}, 'y' x 1_000 . '...', 'it is cut');
    is(length(state_of($main, $gid)->{last_failure_content}), 4_096,
        'last_failure_content is longer');

    set_mode('content', { status => 500, content => "it is $secret!" });
    my $got = sim($main, POST => "webhooks/$gid/deliver")->{json};
    is($got->{content}, 'it is [secret]!', 'no secret in an answer');
    is($last->()->{content}, 'it is [secret]!', 'nor in the log');
    is(api($main, GET => "$HOOKS/$gid")->{json}{data}{last_failure_content},
        'it is [secret]!', 'nor in last_failure_content');
    api($main, DELETE => "$HOOKS/$gid");

    set_mode('content', { status => 401, content => 'who are you?' });
    create($main, 'content');
    is(log_of($main)->[-1]{content}, 'who are you?', 'of a handshake as well');
    like(slurp("$DIR/main.err"), qr/"content":"no\\u001b\[2J\\u007f\\n"/,
        'and with --verbose');
    return;
}

sub test_state {
    my $file = "$DIR/state";
    my @options = ('--allow-local', '--heartbeats', '--state', $file);

    my $sim = start_sim('state', @options);
    is((stat $file)[2] & oct 7777, oct 600, 'nobody else reads the state');
    my ($gid, $secret) = hook($sim, 'state');
    my @filters = ({ action => 'added', fields => ['name'] });
    api($sim, PUT => "$HOOKS/$gid", {},
        json => { data => { filters => \@filters } });
    my ($gone) = hook($sim, 'state2');
    api($sim, DELETE => "$HOOKS/$gone");
    kill_sim($sim);

    $sim = start_sim('state', @options);
    my $data = api($sim, GET => "$HOOKS/$gid")->{json}{data};
    is($data->{target}, "$receiver/r/state", 'a webhook survives kill -9');
    is_deeply($data->{filters}, \@filters, 'with its filters');
    is(api($sim, GET => "$HOOKS/$gone")->{code}, 404,
        'one that was deleted does not come back');
    is(create($sim, 'state')->{code}, 403, 'its place is taken');
    is(sim($sim, POST => "webhooks/$gid/heartbeat")->{json}{status}, 200,
        'it delivers');
    is(last_seen('state')->{signature},
        hmac_sha256_hex('{"events":[]}', $secret), 'signed by its secret');

    set_mode('state', { status => 503, 
        content => "\xc3\xa9\xf0\x9f\x98\x80" });
    my $body = "\xff\0\xc3\xa9\n";
    my $id = sim($sim, POST => "webhooks/$gid/deliver?raw=1", $body)
        ->{json}{delivery};
    advance($sim, 20);
    my $before = state_of($sim, $gid);
    is(stop($sim, 'TERM'), 0, 'it ends');
    is((stat $file)[2] & oct 7777, oct 600, 'the mode stays');

    $sim = start_sim('state', @options);
    is_deeply(state_of($sim, $gid), $before, 'a failing webhook survives');
    is($before->{last_failure_content}, "\x{e9}\x{1f600}",
        'with what it answered');
    is(sim($sim, GET => "deliveries/$id")->{json}{attempts}, 1,
        'with what it has yet to take');
    set_mode('state', {});
    advance($sim, 20);
    is(last_seen('state')->{body}, $body, 'the retry has the same bytes');
    is_deeply(state_of($sim, $gid)->{queue}, [], 'and succeeds');
    my ($next) = hook($sim, 'state3');
    cmp_ok($next, '>', $gone, 'no gid comes twice');
    cmp_ok(sim($sim, POST => "webhooks/$gid/deliver")->{json}{delivery}, '>',
        $id, 'nor the id of a delivery');

    my $made = @{ seen('state') };
    is(stop($sim, 'TERM'), 0, 'it ends');
    my $state = decode_json(slurp($file));
    $_->{heartbeat_at} -= 7 * 24 * 3600 for @{ $state->{webhooks} };
    spew($file, encode_json($state));
    $sim = start_sim('state', @options);
    advance($sim, 0);
    is(@{ seen('state') }, $made + 1, 'one heartbeat after a week');
    is(stop($sim, 'TERM'), 0, 'it ends');
    return;
}

sub test_state_errors {
    my $file = "$DIR/wrong";
    my @options = ('--listen', '127.0.0.1:0', '--state');
    my $error = sub {
        my ($exit, $out, $err) = run(@options, @_);
        is($exit, 1, "it does not start: @_");
        return $err;
    };

    my %hook = (gid => '1200000000000001', resource => '1',
        target => 'http://a/', secret => 'x', created_at => 1, retries => 0,
        filters => [], queue => []);
    my %state = (version => 1, offset => 0, next_gid => 1_200_000_000_000_002,
        next_delivery => 1);
    my %batch = (id => 1, type => 'delivery', attempts => 1, created_at => 1,
        next_at => 1, body => '');
    for my $text ('{', '{"version":2}',
        encode_json({ %state, webhooks => [1] }),
        encode_json({ %state, webhooks => [{ %hook, secret => '' }] }),
        encode_json({ %state, webhooks => [{ %hook, filters => 1 }] }),
        encode_json({ %state, webhooks => [{ %hook, queue => [
            { %batch, body => "\x{100}" }] }] }),
        encode_json({ %state, offset => -1, webhooks => [\%hook] })) {
        spew($file, $text);
        is($error->($file), "asana-sim: $file is not a state of asana-sim\n",
            'it says why');
        is(slurp($file), $text, 'and leaves the file alone');
    }
    like($error->("$DIR/no/state"), qr{\Aasana-sim: cannot write \S+: No such},
        'no directory');
    mkdir "$DIR/dir" or die "mkdir: $!\n";
    like($error->("$DIR/dir"), qr/\Aasana-sim: cannot (?:read|write) \S+: Is a dir/,
        'a directory');

    spew($file, encode_json({ %state, webhooks => [{ %hook, queue =>
        [{ %batch, next_at => 9_999_999_999 }] }] }));
    my $sim = start_sim('lock', '--allow-local', '--state', $file);
    is(state_of($sim, $hook{gid})->{target}, 'http://a/', 'a good state');
    like($error->($file), qr/another asana-sim uses \Q$file\E\n\z/,
        'one at a time');

    # a directory in the way of the new file
    mkdir "$file.new" or die "mkdir: $!\n";
    my $got = create($sim, 'lock');
    is($got->{code}, 500, 'a webhook that cannot be kept');
    is(@{ sim($sim, GET => 'webhooks')->{json}{webhooks} }, 1,
        'is not created');
    like(slurp("$DIR/lock.err"), qr/cannot write \Q$file\E: /, 'it says why');
    rmdir "$file.new" or die "rmdir: $!\n";
    is(create($sim, 'lock')->{code}, 201, 'and later it is');
    is(stop($sim, 'TERM'), 0, 'it ends');
    return;
}

sub test_errors_of_the_control_api {
    my ($gid) = hook($main, 'control');

    for my $body ('{', '[]', '{"count":0}', '{"count":1001}', '{"count":"x"}',
        '{"count":1,"events":[]}', '{"events":{}}', '{"evens":[]}',
        '{"template":"tusk-added"}', '{"template":["comment"]}',
        '{"template":"comment","events":[]}') {
        is(sim($main, POST => "webhooks/$gid/deliver", $body)->{code}, 400,
            "400: deliver $body");
    }
    for my $body ('', '{}', '{"seconds":-1}', '{"seconds":"x"}',
        '{"seconds":[]}', '{"minutes":1}') {
        is(sim($main, POST => 'advance', $body)->{code}, 400,
            "400: advance $body");
    }
    is(sim($main, POST => "webhooks/999/$_")->{code}, 404, "404: $_")
        for qw(deliver heartbeat);
    is(sim($main, GET => 'webhooks/999')->{code}, 404, '404: state');
    is(sim($main, GET => 'deliveries?webhook=999')->{code}, 404,
        '404: deliveries');
    is(sim($main, GET => 'deliveries/x')->{code}, 404, '404: a delivery');
    is(sim($main, POST => 'deliveries/0/resend')->{code}, 404, '404: resend');
    is(sim($main, GET => 'deliveries/1/resend')->{code}, 405,
        '405: GET resend');
    is(sim($main, POST => $_)->{code}, 405, "405: POST $_")
        for qw(webhooks deliveries deliveries/1);
    like(error_of(sim($main, POST => "webhooks/$gid/deliver",
        '{"template":"x"}')), qr/ comment, section, task-added, /,
        'templates are named');
    is(sim($main, GET => 'advance')->{code}, 405, '405: GET advance');
    is(sim($main, GET => "webhooks/$gid/deliver")->{code}, 405,
        '405: GET deliver');
    is(@{ seen('control') }, 1, 'none of these delivered anything');
    return;
}

sub test_secrets_stay_hidden {
    cmp_ok(@secrets, '>', 15, 'there are secrets to look for');
    log_of($_) for $main, $other;

    is((grep { /"gid" *: *\d/ } @shown), 0, 'all gids are strings');

    my $text = join "\n", @shown, map { slurp("$DIR/$_.err") } qw(main other);
    my @found = grep { index($text, $_) >= 0 } @secrets;
    is(@found, 0, 'no other answer and no log shows a secret');
    like(slurp("$DIR/main.err"), qr/"type":"handshake"/,
        '--verbose writes the log to stderr');
    return;
}

sub test_end {
    is(slurp("$DIR/$_.err"), '', "nothing on stderr of $_")
        for qw(other strict);

    set_mode('end', { delay => 2 });
    my $call = api_p($other, POST => $HOOKS, {},
        form => { resource => 1, target => "$receiver/r/end" });
    $call->{promise}->catch(sub { return });
    until_p(sub { return in_flight_p('end') })->wait;
    is(stop($other, 'TERM'), 0, 'SIGTERM ends it while a call is in flight');
    is(stop($strict, 'INT'), 0, 'SIGINT ends it');
    return;
}


# Calls. The text of every answer but the create call's is kept.

sub api_p {
    my ($sim, $method, $path, $headers, @body) = @_;

    my %call;
    my %header = (Authorization => 'Bearer letmein', %{ $headers // {} });
    my $tx = $ua->build_tx($method => "$sim->{url}$path", \%header, @body);
    $call{promise} = $ua->start_p($tx)->then(sub {
        $call{done} = 1;
        return answer($_[0]->res, $method eq 'POST' && $path =~ /^\Q$HOOKS\E/);
    });
    return \%call;
}

sub api {
    my @args = @_;

    my $got;
    api_p(@args)->{promise}->then(sub { $got = $_[0] })->wait;
    return $got // die "no answer to @args[1, 2]\n";
}

sub sim {
    my ($sim, $method, $path, @body) = @_;

    return api($sim, $method, "/sim/$path", {}, @body);
}

sub request {
    my ($sim, $method, $path, @rest) = @_;

    return answer($ua->start($ua->build_tx($method => "$sim->{url}$path",
        @rest))->result);
}

sub answer {
    my ($res, $create) = @_;

    push @shown, $res->body if !$create || $res->code != 201;
    return {
        code => $res->code,
        type => $res->headers->content_type,
        text => $res->body,
        json => $res->json,
    };
}

sub error_of { return $_[0]{json}{errors}[0]{message} }

sub create {
    my ($sim, $name, $resource) = @_;

    my $got = api($sim, POST => $HOOKS, {}, form => {
        resource => $resource // 1, target => "$receiver/r/$name" });
    push @secrets, $got->{json}{'X-Hook-Secret'} if $got->{code} == 201;
    return $got;
}

sub hook {
    my ($sim, $name) = @_;

    set_mode($name, {});
    my $got = create($sim, $name);
    die "no webhook: $got->{text}\n" if $got->{code} != 201;
    return ($got->{json}{data}{gid}, $got->{json}{'X-Hook-Secret'});
}

sub advance {
    my ($sim, $seconds) = @_;

    return sim($sim, POST => 'advance', encode_json({ seconds => $seconds }))
        ->{json};
}

sub state_of { return sim($_[0], GET => "webhooks/$_[1]")->{json} }

sub log_of { return sim($_[0], GET => 'log')->{json}{log} }

sub seconds_of {
    my ($time) = @_;

    my ($y, $mo, $d, $h, $mi, $s) = split /[-T:Z]/, $time;
    return timegm(0, $mi, $h, $d, $mo - 1, $y) + $s;
}


# The receiver: it does what the mode of a path says.

sub start_receiver {
    my ($tls) = @_;

    return start_child(sub {
        my ($tell) = @_;

        my $listen = $tls
            ? "https://127.0.0.1:0?cert=$tls->{cert}&key=$tls->{key}"
            : 'http://127.0.0.1:0';
        my $daemon = Mojo::Server::Daemon->new(app => receiver(),
            listen => [$listen], silent => 1)->start;
        $tell->(($tls ? 'https' : 'http') . '://127.0.0.1:'
            . $daemon->ports->[0]);
        Mojo::IOLoop->start;
    })->{url};
}

sub receiver {
    my (%mode, %seen, %in_flight, %most);

    my $app = Mojolicious->new(mode => 'production');
    $app->log->level('error');
    my $r = $app->routes;

    $r->post('/r/#name' => sub {
        my ($c) = @_;

        my $name = $c->stash('name');
        push @{ $seen{$name} }, note_request($c->req);
        my %do = (status => 200, delay => 0, echo => 'same', content => '',
            %{ $mode{$name} // {} });

        $most{$name} = max(++$in_flight{$name}, $most{$name} // 0);
        $c->render_later;
        my $tx = $c->tx;
        Mojo::IOLoop->timer($do{delay} => sub {
            $in_flight{$name}--;
            echo_secret($c, $do{echo});
            $c->res->headers->location('/elsewhere') if $do{status} =~ /^3/;
            $c->render(data => $do{content}, status => $do{status});
            undef $tx;
        });
    });
    $r->put('/mode/#name' => sub {
        $mode{ $_[0]->stash('name') } = $_[0]->req->json;
        $_[0]->render(data => '');
    });
    $r->get('/seen/#name' => sub {
        $_[0]->render(json => $seen{ $_[0]->stash('name') } // []);
    });
    $r->get('/in_flight/#name' => sub {
        $_[0]->render(json => $in_flight{ $_[0]->stash('name') } // 0);
    });
    $r->post('/most/#name' => sub {
        $_[0]->render(json => delete $most{ $_[0]->stash('name') });
    });
    return $app;
}

sub note_request {
    my ($req) = @_;

    my $h = $req->headers;
    return {
        method    => $req->method,
        url       => $req->url->to_string,
        secret    => $h->header('X-Hook-Secret'),
        signature => $h->header('X-Hook-Signature'),
        type      => $h->content_type,
        length    => $h->content_length,
        body      => b64_encode($req->body, ''),
    };
}

sub echo_secret {
    my ($c, $how) = @_;

    my $secret = $c->req->headers->header('X-Hook-Secret') // return;
    my $h = $c->res->headers;
    $h->add('X-Hook-Secret' => $secret) if $how eq 'same' || $how eq 'twice';
    $h->add('X-Hook-Secret' => $secret) if $how eq 'twice';
    $h->add('X-Hook-Secret' => scalar reverse $secret) if $how eq 'other';
    return;
}

sub set_mode {
    my ($name, $mode) = @_;

    $ua->put("$receiver/mode/$name", json => $mode)->result;
    return;
}

sub seen {
    my ($name) = @_;

    my $seen = $ua->get("$receiver/seen/$name")->result->json;
    $_->{body} = b64_decode($_->{body}) for @$seen;
    return $seen;
}

sub last_seen { return seen($_[0])->[-1] }

sub take_most { return $ua->post("$receiver/most/$_[0]")->result->json }

sub in_flight_p {
    my ($name) = @_;

    return $ua->get_p("$receiver/in_flight/$name")->then(sub {
        return $_[0]->res->json;
    });
}

sub until_p {
    my ($condition) = @_;

    return Mojo::Promise->resolve($condition->())->then(sub {
        return $_[0] || until_p($condition);
    });
}


# Processes.

sub start_sim {
    my ($name, @options) = @_;

    my $sim = start_child(sub {
        open STDERR, '>', "$DIR/$name.err" or die "$name.err: $!\n";
        exec $^X, $SIM, '--listen', '127.0.0.1:0', @options
            or die "exec: $!\n";
    });
    return { %$sim, name => $name };
}

sub kill_sim {
    my ($sim) = @_;

    kill 'KILL', $sim->{pid};
    waitpid $sim->{pid}, 0;
    @children = grep { $_ != $sim->{pid} } @children;
    return;
}

# Runs the code in a child, which tells its address on stdout.
sub start_child {
    my ($code) = @_;

    pipe my $read, my $write or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        close $read;
        open STDOUT, '>&', $write or die "dup: $!\n";
        close $write;
        alarm 0;
        eval { $code->(sub { STDOUT->printflush("on $_[0]\n") }); 1 }
            or print STDERR $@;
        POSIX::_exit(1);
    }
    push @children, $pid;
    close $write;

    my $line = IO::Select->new($read)->can_read(15) ? <$read> : undef;
    my ($url) = ($line // '') =~ m{\bon (https?://\S+)\n\z}
        or die "a child did not start: [" . ($line // "undef") . "]\n";
    return { pid => $pid, url => $url, out => $read };
}

sub stop {
    my ($sim, $signal) = @_;

    kill $signal, $sim->{pid};
    waitpid $sim->{pid}, 0;
    my $status = $?;
    @children = grep { $_ != $sim->{pid} } @children;

    my $out = $sim->{out};
    is(join('', <$out>), '', 'it printed one line only');
    return $status;
}

sub run {
    my @options = @_;

    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDOUT, '>', "$DIR/run.out" or POSIX::_exit(99);
        open STDERR, '>', "$DIR/run.err" or POSIX::_exit(99);
        exec $^X, $SIM, @options or POSIX::_exit(99);
    }
    push @children, $pid;
    waitpid $pid, 0;
    my $exit = $? & 127 ? "signal $?" : $? >> 8;
    pop @children;
    return ($exit, slurp("$DIR/run.out"), slurp("$DIR/run.err"));
}

sub closed_port {
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)
        or die "listen: $!\n";
    return $socket->sockport;
}

# An authority and a certificate for 127.0.0.1, made on the spot.
sub certificates {
    my ($dir) = @_;

    return if !eval { require IO::Socket::SSL; 1 };
    my %file = map { $_ => "$dir/$_.pem" } qw(ca cert key);
    spew("$dir/openssl.conf", "[req]\ndistinguished_name=n\n[n]\n"
        . "[ca]\nbasicConstraints=critical,CA:TRUE\n"
        . "keyUsage=keyCertSign\n"
        . "[leaf]\nsubjectAltName=IP:127.0.0.1\n");
    my @new = ("openssl req -config $dir/openssl.conf -newkey ec"
        . ' -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj');
    for my $command (
        "@new /CN=ca -x509 -extensions ca -keyout $dir/cakey.pem"
            . " -out $file{ca}",
        "@new /CN=leaf -keyout $file{key} -out $dir/leaf.csr",
        "openssl x509 -req -in $dir/leaf.csr -CA $file{ca} -days 2"
            . " -CAkey $dir/cakey.pem -extfile $dir/openssl.conf"
            . " -set_serial 2 -extensions leaf -out $file{cert}",
    ) {
        system("$command 2>/dev/null") == 0 or return;
    }
    return \%file;
}

sub spew {
    my ($path, $text) = @_;

    open my $fh, '>', $path or die "$path: $!\n";
    print {$fh} $text;
    close $fh or die "$path: $!\n";
    return;
}

END {
    if ($$ == $PARENT) {
        my $status = $?;
        kill 'KILL', @children;
        waitpid $_, 0 for @children;
        $? = $status;
    }
}
