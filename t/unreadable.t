# Tests for a store that workers cannot open: they go on with what the zone
# holds, and look for what others have revoked as soon as they may.

use strict;
use warnings;

use lib 't/lib';

use Test::More;
use Time::HiRes qw(sleep);

use Receiver qw(wait_for);

my $body   = '{"events":[{"action":"changed"}]}';
my $secret = 'a-secret-of-printable-text-0123456789';
my @option = (server => 'location /api { asana_hook_api hooks write=on; }');
my $one    = Receiver->new(@option, workers => 2);
my $two    = Receiver->new(@option);

$one->app->run;
$two->app->run($two->conf =~ s{state=\S+}{state=$one->{dir}/state}r);

sub deliver { return $one->deliver('/held', $secret, $body)->{status} }

my $data = "$one->{dir}/state/data.mdb";
is $one->handshake('/held', $secret)->{status}, 200, 'a handshake';
ok wait_for(sub {
    deliver() == 200 && $one->call('GET', '/api/')->{body} =~ /"entries":1/
}), 'it verifies';
sleep 0.5;
deliver();
chmod 0, $data or die $!;
ok $one->reload, 'new workers, which may not open the store';
is deliver(), 200, 'know it from the zone';
like $one->call('GET', '/api/metrics')->{body},
    qr/^asana_hook_store_readable\{zone="hooks"\} 0$/m, 'the metrics tell';
like $one->call('GET', '/api/')->{body}, qr/"store":null/, 'and the API';
chmod 0600, $data or die $!;
is $two->call('DELETE', '/api/hooks?key=localhost/held')->{status}, 204,
    'another nginx revokes it';
ok wait_for(sub { deliver() == 403 }, 10),
    'they open the store as soon as they may';
ok wait_for(sub {
    $one->call('GET', '/api/metrics')->{body}
        =~ /^asana_hook_store_readable\{zone="hooks"\} 1$/m
}), 'which the metrics tell';

$_->end for $one, $two;
done_testing;
