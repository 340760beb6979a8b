# Tests for each way in which nginx waits for events: the store wakes the event
# loop by a descriptor of its own.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(raw request response wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';

for my $method (qw(epoll poll select)) {
    my $t = Receiver->new(expect => qr/invalid event type/);
    (my $conf = $t->conf) =~ s/events \{/events { use $method;/;
    my ($code, $text) = $t->test_config($conf);
SKIP: {
        skip "nginx has no $method", 9
            if $code && $text =~ /invalid event type/;
        $t->app->run($conf);
        my @keys = map {"/$method/$_"} 1 .. 20;
        for my $key (@keys[0, 1]) {
            is $t->handshake($key, "$secret$key")->{status}, 200,
                "$method: a handshake";
            is $t->deliver($key, "$secret$key", 'x')->{status}, 200,
                'verifies';
        }

        # a reload with changes under way; each of them is for the old worker

        my @old = $t->workers;
        my @c   = map {
            request($t->connection, raw($_, "X-Hook-Secret: $secret$_", ''))
        } @keys;
        is response(shift @c)->{status}, 200, 'some are there';
        kill 'HUP', $t->master;
        is scalar(grep { response($_)->{status} == 200 } @c), 19,
            'a reload loses none';
        ok wait_for(sub { Receiver::gone(@old) }, 10), 'the old worker ends';
        is scalar(grep { $t->deliver($_, "$secret$_", 'x')->{status} == 200 }
                @keys), 20, 'all of them verify';
        $t->stop;
        $t->start;
        is scalar(grep { $t->deliver($_, "$secret$_", 'x')->{status} == 200 }
                @keys), 20, 'after a restart as well';
    }
    $t->end;
}

done_testing;
