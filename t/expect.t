# Tests for "Expect: 100-continue": it does not tell which keys hold a secret.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use Test::More;

use Receiver qw(sign);

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new->app->run;
$t->handshake('/known', $secret);
$t->words(1);

# what comes before the body is sent

sub head {
    my ($path, $signature) = @_;
    my $c = $t->connection;
    print {$c} "POST $path HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Signature: $signature\r\nExpect: 100-continue\r\n"
        . "Content-Length: 2\r\n\r\n";
    $c->flush;
    my $early = '';
    $early = IO::Select->new($c)->can_read(10)
        && sysread($c, $early, 4096) ? $early : 'nothing';
    return ($c, $early);
}

sub rest {
    my ($c) = @_;
    print {$c} '{}';
    $c->flush;
    sysread $c, my $answer, 4096;
    return $answer =~ m{^HTTP/1\.1 (\d+)} ? $1 : $answer;
}

my %said;
for my $path ('/known', '/unknown') {
    my ($c, $early) = head($path, 'f' x 64);
    $said{$path} = $early;
    like $early, qr{^HTTP/1\.1 100 }, "$path: go on";
    is rest($c), 403, 'rejected';
}
is $said{'/known'}, $said{'/unknown'}, 'they are answered alike';
is join(' ', sort $t->words(2)), 'INVALID UNKNOWN', 'as is logged';

my ($c) = head('/known', sign($secret, '{}'));
is rest($c), 200, 'a delivery that asks first is verified';

is $t->deliver('/unknown', $secret, '{}')->{status}, 403,
    'without it the body is not waited for';
$t->end;

done_testing;
