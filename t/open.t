# Tests for workers that open a store at the same time: a new one, and one that
# was restored without its lock file.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new(workers => 8)->app;
my $state  = "$t->{dir}/state";
$t->run;
for my $round (1 .. 25) {
    my $new = $round % 2;
    my $key = "/$round";
    ok wait_for(sub { $t->workers == 8 }), 'eight workers';
    my @bad = grep { $_ != 200 }
        map { $t->handshake("$key/$_", "$secret$_")->{status} } 1 .. 8;
    push @bad, grep { $_ != 200 }
        map { $t->deliver("$key/$_", "$secret$_", 'x')->{status} } 1 .. 8;
    is "@bad", '', 'each of them can use the store';
    $t->stop;
    unlink "$state/lock.mdb" or die $!;
    unlink "$state/data.mdb" if $new;
    $t->start;
}
unlike $t->slurp('error.log'), qr/\[crit\]/, 'none complains';
$t->end;

done_testing;
