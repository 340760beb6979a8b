# Tests for the whole life of a webhook, against tools/asana-sim.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json encode_json);
use Test::More;

use Receiver qw(request response secret_id sign wait_for);

my $t = Receiver->new(workers => 2)->app->run;
my $sim = Receiver::port();

my $pid = open my $out, '-|', $^X, 'tools/asana-sim', '--listen',
    "127.0.0.1:$sim", '--allow-local', '--secret-length', 32,
    '--handshake-body', 'json', '--delivery-timeout', 2
    or die $!;
push @{ $t->{pids} }, $pid;
like scalar(<$out>), qr/listening on/, 'asana-sim listens';

sub asana {
    my ($method, $path, $data) = @_;
    my $body = defined $data ? encode_json($data) : '';
    my $s = $t->connection($sim);
    request($s, join "\r\n", "$method $path HTTP/1.1", 'Host: localhost',
        'Authorization: Bearer x', 'Content-Type: application/json',
        'Connection: close', 'Content-Length: ' . length $body, '', $body);
    my $r = response($s, 30);
    close $s;
    return ($r->{status}, $r->{body} =~ /^\{/ ? decode_json($r->{body}) : undef);
}

sub create {
    my ($resource, $uri) = @_;
    return asana('POST', '/api/1.0/webhooks', { data => {
        resource => $resource,
        target   => "http://127.0.0.1:$t->{port}$uri"
    } });
}

sub control {
    my ($gid, $what, $data) = @_;
    return (asana('POST', "/sim/webhooks/$gid/$what", $data || {}))[1];
}

sub webhook {
    my ($gid) = @_;
    return (asana('GET', "/api/1.0/webhooks/$gid"))[1]{data};
}

# created

my ($status, $made) = create(11, '/receive-webhook/11?token=x');
is $status, 201, 'the create call succeeds';
my $gid = $made->{data}{gid};
my $secret = $made->{'X-Hook-Secret'};
is length $secret, 32, 'with a secret';
is(($t->words)[0], 'HANDSHAKE', 'for the handshake was answered');
like $t->{lines}[0], qr/\[@{[secret_id($secret)]}\]/, 'and that secret stored';

# used

is control($gid, 'heartbeat')->{status}, 200, 'a heartbeat passes';
is control($gid, 'deliver', { count => 3 })->{ok}, JSON::PP::true, 'events pass';
is join(' ', $t->words(2)), 'HEARTBEAT VERIFIED', 'as what they are';
my @seen = $t->seen;
is scalar(@{ decode_json($seen[1][1])->{events} }), 3, 'the application has them';
ok webhook($gid)->{last_success_at}, 'Asana is content';

# attacked

is $t->deliver('/receive-webhook/11', 'f' x 32, $seen[1][1])->{status}, 403,
    'a forged delivery does not pass';
is $t->handshake('/receive-webhook/11', 'f' x 32)->{status}, 403,
    'a planted secret is refused';
is scalar(@seen = $t->seen), 0, 'nothing arrives';

# beside others

my ($status2, $made2) = create(12, '/receive-webhook/12');
is $status2, 201, 'another webhook on a URL of its own';
is control($made2->{data}{gid}, 'deliver')->{status}, 200, 'works';
($status2) = create(13, '/receive-webhook/11');
is $status2, 400, 'a second one on the same URL fails under "first"';
is control($gid, 'deliver')->{status}, 200, 'the first one works on';

my @webhooks = map { (create(100 + $_, "/receive-webhook/many/$_"))[1] } 1 .. 20;
is scalar(grep { $_->{data} } @webhooks), 20, 'twenty more';

# the application fails, and comes back

$t->seen;
$t->answer(500, '', 'broken');
my $r = control($gid, 'deliver');
is $r->{status}, 500, 'an application that fails';
ok $r->{retry_in}, 'is tried again';
is webhook($gid)->{last_failure_content}, 'broken', 'Asana shows its answer';
$t->answer(202, '', '');
is((asana('POST', '/sim/advance', { seconds => $r->{retry_in} + 1 }))[0], 200,
    'some time later');
is webhook($gid)->{delivery_retry_count}, 0, 'a 202 counts as a success';
$t->answer(410, '', '');
is control($gid, 'deliver')->{status}, 503, 'a 410 deletes no webhook';
$t->answer(200, '', 'app');
asana('POST', '/sim/advance', { seconds => 3600 });
ok webhook($gid), 'it lives';

# nginx fails, and comes back

$t->kill9;
is control($gid, 'deliver')->{ok}, JSON::PP::false, 'nginx is dead';
$t->start;
asana('POST', '/sim/advance', { seconds => 3600 });
is webhook($gid)->{delivery_retry_count}, 0, 'and the delivery is made later';
is control($gid, 'deliver')->{status}, 200, 'the secret has survived';

# deleted and created again on the same URL

is((asana('DELETE', "/api/1.0/webhooks/$gid"))[0], 200, 'deleted');
($status) = create(11, '/receive-webhook/11');
is $status, 400, 'and created again while its secret is active: refused';
like $t->slurp('error.log'), qr/handshake refused.*active secret/,
    'the log says why';
($status, $made) = create(11, '/receive-webhook/11-again');
is $status, 201, 'another URL is the way out';

$t->secrecy($secret, $made->{'X-Hook-Secret'});
$t->end;

done_testing;
