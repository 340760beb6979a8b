# Tests for asana_hook_gateway: a create call whose secret finds no place any
# more, because its key has as many as max_secrets allows.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(wait_for);

my $t = Receiver->new(
    zone     => 'max_secrets=2',
    location => 'asana_hook_enroll confirm;',
    server   => 'location = /create {
            asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
        }
        location /api/ { asana_hook_api hooks write=on; }'
);
$t->{server} =~ s/APP/$t->{app_port}/;
$t->app->run;

my $n = 0;
sub secret { return sprintf 'secret-%04d-%s', ++$n, 'f' x 40 }

sub put {
    my ($key) = @_;
    return $t->call('PUT', "/api/hooks?key=localhost$key",
        ['X-Hook-Secret: ' . secret()])->{status};
}

my $creates = 0;

sub create {
    my ($secret) = @_;
    my $body = qq({"X-Hook-Secret":"$secret"});
    $t->answer(201, '', $body);
    my $r = $t->call('POST', '/create', [], 'x');
    is "$r->{status} $r->{body}", "201 $body", 'the answer is unchanged';
    my @words;
    wait_for(sub {
        @words = $t->slurp('access.log') =~ m{^POST /create \d+ \[(.*?)\]}mg;
        return @words > $creates;
    });
    return $words[$creates++];
}

sub tool {
    my ($command) = @_;
    return scalar qx($^X tools/asana-hook --url http://127.0.0.1:$t->{port}/api/ $command 2>&1);
}

# the key is as odd as it may be, for the log names it

my $key    = '/a%20%22%27%C3%A9%C2%9B%E2%80%AE%FF';
my $secret = secret();
is $t->handshake($key, $secret)->{status}, 200, 'pending';
is put($key), 201, 'meanwhile others come' for 1, 2;
is create($secret), 'REFUSED', 'REFUSED';
is $t->deliver($key, $secret, 'x')->{status}, 503, 'it stays pending';

my ($line) = $t->slurp('error.log') =~ /^(.*created webhook "" was refused.*)$/m;
ok defined $line, 'the log says so';
like $line, qr/\[error\].*"max_secrets"/, 'and why, without a failed store';
unlike $line, qr/[^ -~]/, 'and shows no character that a terminal obeys';
unlike $t->slurp('error.log'), qr/\[crit\]/, 'nobody is woken';

# the way out is one that can be followed

my ($command) = $line =~ /"asana-hook (revoke [^"]+)"/;
ok defined $command, 'it names a command' or diag $line;
is tool($command), "revoked\n", 'which does it';
is $t->handshake($key, $secret)->{status}, 200, 'the webhook comes again';
is create($secret), 'CONFIRMED', 'and has a place';
is $t->deliver($key, $secret, 'x')->{status}, 200, 'active';

# of two keys one has no place

$secret = secret();
is $t->handshake($_, $secret)->{status}, 200, "pending under $_"
    for '/full', '/free';
put('/full') for 1, 2;
is create($secret), 'REFUSED', 'of two keys one is full: REFUSED';
is $t->deliver('/free', $secret, 'x')->{status}, 200, 'the other is active';
is $t->deliver('/full', $secret, 'x')->{status}, 503, 'that one is not';
like $t->slurp('error.log'), qr{revoke localhost/full"},
    'and the log names it';

# a longest key fits into the line

$key    = '/' . '%FF' x 470;
$secret = secret();
$t->handshake($key, $secret);
put($key) for 1, 2;
is create($secret), 'REFUSED', 'a long key';
my @commands = $t->slurp('error.log') =~ /"asana-hook (revoke [^"]+)"/g;
is tool($commands[-1]), "revoked\n", 'its command is whole';

is $t->call('GET', '/api/metrics')->{body}
    =~ /gateway_requests_total\{zone="hooks",result="refused"\} (\d+)/ && $1, 3,
    'they are counted';
$t->secrecy($secret);
$t->end;

done_testing;
