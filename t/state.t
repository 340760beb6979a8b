# Tests for what nginx goes through: workers, reloads, restarts, upgrades.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new(workers => 2)->app->run;

# every worker sees a secret at once: ask until both have answered

for my $n (1 .. 30) {
    is $t->handshake("/w/$n", "$secret$n")->{status}, 200, 'handshake'
        if $n == 1;
    $t->handshake("/w/$n", "$secret$n") if $n > 1;
    my @s = map { $t->connection } 1 .. 4;
    my $body = "event $n";
    for my $s (@s) {
        request($s, "POST /w/$n HTTP/1.1\r\nHost: localhost\r\n"
                . 'X-Hook-Signature: ' . sign("$secret$n", $body) . "\r\n"
                . 'Content-Length: ' . length($body) . "\r\n\r\n$body");
    }
    my $ok = grep { response($_)->{status} == 200 } @s;
    is $ok, 4, "key $n: all workers verify at once" if $ok != 4 || $n == 30;
}

# files

my $user = $> == 0 ? 'www-data' : scalar getpwuid $>;
for my $file ('', '/data.mdb', '/lock.mdb') {
    my @stat = stat "$t->{dir}/state$file";
    is sprintf('%o', $stat[2] & 4095), $file ? 600 : 700, "the mode of state$file";
    is getpwuid($stat[4]), $user, 'and its owner';
}

sub works {
    my ($what) = @_;
    is $t->deliver('/w/1', "${secret}1", $what)->{status}, 200,
        "$what: the secret verifies";
    is $t->deliver('/w/1', "${secret}2", $what)->{status}, 403,
        'and another does not';
    is $t->handshake('/w/1', "${secret}2")->{status}, 403,
        'nor is another taken';
    return;
}

works('before');

ok $t->reload, 'reload';
works('reload');

for my $size ('2m', '32k', '1m') {
    (my $conf = $t->conf) =~ s/zone=hooks:1m/zone=hooks:$size/;
    ok $t->reload($conf), "reload with a zone of $size";
    works("zone of $size");
}

(my $other = $t->conf) =~ s/(asana_hook_zone \S+ .*);/$1 max_size=8m inactive=2d;/;
ok $t->reload($other), 'reload with other parameters';
works('other parameters');

kill 'KILL', ($t->workers)[0];
ok wait_for(sub { $t->workers == 2 }), 'a worker dies';
works('worker death');

$t->stop('TERM');
$t->start;
works('restart');

$t->kill9;
$t->start;
works('kill -9 of all');

# another key or another store for a zone that lives

my $master = $t->master;
my @old    = $t->workers;
(my $key = $t->conf) =~ s/asana_hook_zone \S+/asana_hook_zone \$uri/;
$t->write_file('nginx.conf', $key);
kill 'HUP', $master;
ok wait_for(sub {
    $t->slurp('error.log') =~ /\[emerg\].*asana_hook_zone "hooks" uses the key/
}), 'another key is refused with a reason';
$t->{expect} = qr/\[emerg\].*asana_hook_zone "hooks" uses the key|exited on signal 9/;
is join(' ', sort $t->workers), join(' ', sort @old), 'the workers stay';
works('refused reload');
$t->write_file('nginx.conf', $t->conf);

(my $both = $t->conf) =~ s{zone=hooks:1m state=\S+}
    {zone=hooks:2m state=$t->{dir}/elsewhere};
$t->write_file('nginx.conf', $both);
kill 'HUP', $master;
ok wait_for(sub {
    my @n = $t->slurp('error.log')
        =~ /\[emerg\].*asana_hook_zone "hooks" uses the key/g;
    @n == 2;
}), 'another store is refused, also with another size';
is join(' ', sort $t->workers), join(' ', sort @old), 'the workers stay';
works('refused reload of another size');
$t->write_file('nginx.conf', $t->conf);

# a binary upgrade, and the way back

SKIP: {
    my $upgrade = sub {
        kill 'USR2', $t->master;
        return wait_for(sub {
            my $new = $t->master;
            -e "$t->{dir}/nginx.pid.oldbin" && $new && $new != $master
                && $t->workers == 2;
        });
    };
    $master = $t->master;
    ok $upgrade->(), 'USR2: two generations' or skip 'no upgrade', 1;

    my $lost = 0;
    for my $n (1 .. 20) {
        $t->handshake("/u/$n", "$secret$n")->{status} == 200 or $lost++;
        for (1 .. 4) {
            $t->deliver("/u/$n", "$secret$n", 'x')->{status} == 200
                or $lost++;
        }
    }
    is $lost, 0, 'both generations enroll and verify';
    works('two generations');

    my $new = $t->master;
    kill 'QUIT', $new;
    ok wait_for(sub { Receiver::gone($new) && ($t->master || 0) == $master }, 20),
        'back to the old one';
    works('back');

    ok $upgrade->(), 'USR2 again';
    my @workers = grep { $_ != $t->master } $t->workers($master);
    kill 'WINCH', $master;
    ok wait_for(sub { Receiver::gone(@workers) }, 20), 'WINCH';
    works('new generation');
    kill 'QUIT', $master;
    ok wait_for(sub { Receiver::gone($master) }, 20), 'QUIT';
    works('upgraded');
}

$t->end;

# a second nginx on the same store

my $one = Receiver->new->app->run;
my $two = Receiver->new;
(my $conf = $two->conf) =~ s{state=\S+}{state=$one->{dir}/state};
$two->app->run($conf);
is $one->handshake('/a', $secret)->{status}, 200, 'one nginx takes a secret';
is $two->deliver('/a', $secret, 'x')->{status}, 200, 'the other one knows it';
is $two->handshake('/a', "$secret-other")->{status}, 403, 'and its policy too';
$two->end;
$one->end;

# one whose store may be larger: the other one's map grows after it

my $dir = Receiver->new;
my $api = 'location /api { asana_hook_api hooks write=on; }';
my ($small, $reader, $large) = map {
    my $nginx = Receiver->new(server => $api, zone => "max_size=$_");
    ($conf = $nginx->conf) =~ s{state=\S+}{state=$dir->{dir}/state};
    $nginx->app->run($conf);
} '1m', '1m', '8m';

for my $nginx ($small, $reader) {
    is $nginx->handshake('/first', $secret)->{status}, 200, 'small maps';
}
my @keys = map {'/large/' . 'k' x 400 . $_} 1 .. 1500;
my @r = $large->many(
    map { Receiver::raw($_, "X-Hook-Secret: $secret", '') } @keys);
is scalar(grep { $_->{status} == 200 } @r), 1500, 'a large map';
cmp_ok -s "$dir->{dir}/state/data.mdb", '>', 1048576, 'outgrows them';

sub put {
    my ($nginx, $uri) = @_;
    return $nginx->call('PUT', "/api/hooks?key=localhost$uri",
        ["X-Hook-Secret: $secret$uri"])->{status};
}

is put($large, '/put'), 201, 'which takes more';
is $small->call('DELETE', '/api/hooks?key=localhost/first')->{status}, 204,
    'the first thing is a DELETE';
is $small->deliver('/put', "$secret/put", 'x')->{status}, 200, 'verifies';
is $reader->deliver('/put', "$secret/put", 'x')->{status}, 200,
    'the first thing is a delivery';
is $reader->deliver('/first', $secret, 'x')->{status}, 403, 'and what went';
for my $nginx ($small, $reader, $large) {
    unlike $nginx->slurp('error.log'), qr/\[crit\]/, 'no complaint';
}
is put($small, '/more'), 503, 'its own size is a bound for what it adds';
like $small->slurp('error.log'), qr/\[crit\].*raise "max_size"/, 'it says';
$_->end for $small, $reader, $large;
$dir->end;

# a zone far smaller than the store

$t = Receiver->new->app;
($conf = $t->conf) =~ s/zone=hooks:1m/zone=hooks:32k/;
$t->run($conf);
my $bad = 0;
for my $n (1 .. 300) {
    $t->handshake("/z/$n", "$secret$n")->{status} == 200 or $bad++;
}
for my $n (1 .. 300) {
    $t->deliver("/z/$n", "$secret$n", 'x')->{status} == 200 or $bad++;
}
is $bad, 0, 'a zone of 32k serves 300 secrets';

# a gateway finds its place in a zone that is full

my $gateway = 'location = /create { asana_hook_gateway hooks; '
    . "proxy_pass http://127.0.0.1:$t->{app_port}; }";
$conf =~ s/server \{/server { $api /;
ok $t->reload($conf), 'a reload';
$t->deliver("/z/$_", "$secret$_", 'x') for 1 .. 300;
$conf =~ s/server \{/server { $gateway /;
ok $t->reload($conf), 'with a gateway';
is $t->deliver('/z/1', "${secret}1", 'x')->{status}, 200, 'secrets verify';
is $t->handshake('/fresh', "$secret-fresh")->{status}, 200, 'a handshake';
$t->answer(201, '', qq({"X-Hook-Secret":"$secret-fresh"}));
is $t->call('POST', '/create', [], 'x')->{status}, 201, 'a create call';
ok wait_for(sub {
    $t->slurp('access.log') =~ m{^POST /create 201 \[CONFIRMED\]}m
}), 'CONFIRMED';
$t->end;

# a store that is made anew says so, and what the old one knew is not believed

$t = Receiver->new->app->run;
my $anew = qr/\[warn\].*store "\Q$t->{dir}\E\/state" was made anew/;
is $t->handshake('/a', $secret)->{status}, 200, 'a secret';
is $t->deliver('/a', $secret, 'x')->{status}, 200, 'verifies';
my @lines = $t->slurp('error.log') =~ /$anew/g;
is scalar @lines, 1, 'the first store: a line';
ok $t->reload, 'a reload';
is $t->deliver('/a', $secret, 'x')->{status}, 200, 'verifies';
@lines = $t->slurp('error.log') =~ /$anew/g;
is scalar @lines, 1, 'no line';
rename "$t->{dir}/state", "$t->{dir}/away" or die $!;
ok $t->reload, 'the directory was moved away, a reload';
is $t->deliver('/a', $secret, 'x')->{status}, 403, 'verifies no more';
@lines = $t->slurp('error.log') =~ /$anew/g;
is scalar @lines, 2, 'the log says that the store is new';
is $t->handshake('/b', $secret)->{status}, 200, 'a secret of the new one';
is $t->deliver('/b', $secret, 'x')->{status}, 200, 'verifies';
is $t->deliver('/a', $secret, 'x')->{status}, 403, 'the old one does not';
$t->end;

# beside other processes of nginx, and without "http" at all

$t = Receiver->new(workers => 2);
$t->{http} = "proxy_cache_path $t->{dir}/cache keys_zone=cache:1m;";
$t->app->run;
ok wait_for(sub { $t->workers >= 3 }), 'a cache manager';
is $t->handshake('/a', $secret)->{status}, 200, 'beside it a handshake';
ok $t->reload($t->globals), 'a configuration without "http"';
ok wait_for(sub { $t->workers == 2 }), 'has workers';
ok $t->reload($t->conf), 'and "http" again';
is $t->deliver('/a', $secret, 'x')->{status}, 200, 'verifies';
$t->end;

# no master, no workers

$t = Receiver->new(main => 'master_process off; daemon on;', workers => 0);
$t->app;
$t->run;
is $t->handshake('/a', $secret)->{status}, 200, 'master_process off';
is $t->deliver('/a', $secret, 'x')->{status}, 200, 'verifies';
is $t->handshake('/b', $secret)->{status}, 200, 'takes another';
$t->end;

done_testing;
