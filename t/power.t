# Tests for a power cut: what was not synced is gone, and no handshake that was
# answered is among it.

use strict;
use warnings;

use lib 't/lib';

use File::Copy qw(copy);
use Test::More;

use Receiver;
use Shim;
use Storm;

Shim->usable;

my $t = Receiver->new(workers => 2,
    location => 'asana_hook_heartbeat answer;')->app;
Shim->new($t)->disk;
$t->run;

my $state = "$t->{dir}/state";
my $storm = Storm->new($t);
my $unsynced = 0;

# Only what the shim has kept comes back; the owner of the file stays.

sub cut {
    my ($disk, $file) = map { $t->slurp($_) } 'faults.disk', 'state/data.mdb';
    $unsynced++ if $disk ne $file;
    unlink "$state/lock.mdb";
    truncate "$state/data.mdb", 0 or die $!;
    copy("$t->{dir}/faults.disk", "$state/data.mdb") or die $!;
    return;
}

$storm->killed(\&cut) for 1 .. 20;
is $storm->rounds, 20, '20 storms of handshakes, ended by a power cut';
cmp_ok scalar(my @keys = $storm->answered), '>=', 200,
    'many handshakes were answered';
cmp_ok $unsynced, '>', 0, 'something was not synced';
is join(' ', $storm->lost), '', 'each of them is stored';
is join(' ', $storm->missing(@keys)), '', 'and none was lost later';
is scalar($storm->missing('/never')), 1, 'one that never was is missing';

$t->end;

done_testing;
