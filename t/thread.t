# Tests for the thread of the store: started and ended thousands of times,
# under ThreadSanitizer where the compiler has it.

use strict;
use warnings;

use lib 't/lib';

use File::Temp qw(tempdir);
use Test::More;

use Receiver;

my $dir    = tempdir(CLEANUP => 1);
my $cc     = $ENV{CC} || 'cc';
my ($tree) = glob 'build/*/nginx';
my $incs   = qx(tools/nginx-flags $tree incs);
chomp $incs;

# with these flags, or undef if they cannot be had

sub driver {
    my ($name, $flags) = @_;
    my $log = "$dir/$name.log";
    system("$cc -g -O1 -Wall -Wextra -Wno-unused-parameter $flags"
            . " -Isrc $incs -Wl,--wrap=pthread_cond_timedwait"
            . " -o $dir/$name t/lib/thread.c src/ngx_asana_thread.c"
            . " -lpthread >$log 2>&1") == 0
        and return "$dir/$name";
    return;
}

sub run {
    my ($program, $n) = @_;
    return scalar qx(TSAN_OPTIONS=exitcode=1 $program $n 2>&1; echo status \$?);
}

sub promise {
    my ($n) = @_;
    return <<"END";
jobs $n, done $n
end of an idle one: 0, connections 0
ends with a job under way, connections 0
told to leave: 1
end of a stuck one: -5
status 0
END
}

my $plain = driver('plain', '') or BAIL_OUT('the driver does not compile');
is run($plain, 20000), promise(20000), 'starts and ends, 20,000 times';

SKIP: {
    my $tsan = driver('tsan', '-fsanitize=thread')
        or skip 'no ThreadSanitizer here', 1;
    my $said = run($tsan, 2000);
    skip 'ThreadSanitizer does not run here', 1
        if $said =~ /FATAL: ThreadSanitizer/;
    is $said, promise(2000), 'the same under ThreadSanitizer';
}

done_testing;
