# Tests for the texts: each link leads somewhere, each example is whole and
# loads or runs, each option, command and path that a text names exists.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use File::Basename qw(dirname);
use File::Find qw(find);
use File::Path qw(make_path);
use JSON::PP ();
use POSIX ();
use Test::More;

use Page qw(commands statements);
use Receiver qw(port secret_id);
use Slurp;

# whose blocks are examples, and what else has links and names

my @PAGES = ('README.md', 'CONTRIBUTING.md', 'SECURITY.md',
    'bench/performance.head.md', glob 'docs/*.md');
my %page;
find({ no_chdir => 1, wanted => sub {
    my $name = $File::Find::name =~ s{^\./}{}r;
    $File::Find::prune = 1
        if -d && $name =~ m{(?:^|/)(?:\.git|node_modules)$|^build};
    $page{$name} = Page->new($name)
        if -f && $name =~ m{\.md$|(?:^|/)README$};
} }, '.');

# Faults are "line: what is wrong; what to do".

sub right {
    my ($file, $name, @faults) = @_;
    return ok(!@faults, "$file: $name")
        || diag map {"$file:$_->[0]: $_->[1]\n"} @faults;
}


# Links, and the names of files.

my %linked;

sub link_fault {
    my ($file, $target) = @_;
    return if $target =~ m{^(?:[a-z][a-z\d+.-]*:|//)}i;
    my ($path, $anchor) = $target =~ /^([^#]*)(?:#(.*))?$/s;
    s/%([\da-f]{2})/chr hex $1/gie for $path, defined $anchor ? $anchor : ();
    return "the link \"$target\" begins with \"/\": write it from the page on"
        if $path =~ m{^/};

    my $to = $file;
    if ($path ne '') {
        $to = dirname($file) . "/$path";
        1 while $to =~ s{(?:^|/)\K(?:\./|(?!\.\./)[^/]+/\.\.(?:/|$))}{};
        $to =~ s{/+$}{};
        return "the link \"$target\" leads out of the tree" if $to =~ /^\.\./;
    }
    return "the link \"$target\" leads to no file: there is no \"$to\""
        if $to ne '' && !-e $to;
    $linked{$to} = 1 if $to ne $file;
    return if !defined $anchor;
    return "the link \"$target\" has an anchor, but is no page: take it away"
        if !$page{$to};
    return if $page{$to}{anchors}{$anchor};
    return "the link \"$target\" leads to no chapter: $to has "
        . join ' ', sort keys %{ $page{$to}{anchors} };
}

# What a text calls by its path; names in capitals and "..." are anybody's.

sub path_faults {
    my ($line, $text) = @_;
    my @faults;
    my $top = qr/(?:bench|conf|debian|docs|fuzz|share|src|t|tools)/;
    while ($text =~ m{(?<![\w./\$~-])($top/[\w./*{},-]*[\w*/])}g) {
        my $path = $1;
        next if $path =~ m{(?:^|/)(?!README|CONTRIBUTING|NOTES)[A-Z]{2,}}
            || $path =~ /\.\.\./;
        push @faults, [$line, "there is no \"$path\": name what there is"]
            if !grep { -e } glob $path;
    }
    return @faults;
}

for my $file (sort keys %page) {
    my $page   = $page{$file};
    my $is_md  = $file =~ /\.md$/;
    my @faults = @{ $page->{faults} };
    for my $link ($is_md ? $page->links : ()) {
        my $fault = link_fault($file, $link->[1]);
        push @faults, [$link->[0], $fault] if $fault;
    }
    push @faults, path_faults(@$_) for $is_md ? $page->spans : ();
    if (!$is_md) {
        my $n = 0;
        push @faults, path_faults(++$n, $_) for split /\n/, $page->{prose};
    }
    right($file, 'links and names of files', @faults);
}

my @alone = grep { !$linked{$_} } glob 'docs/*';
ok !@alone, 'docs: a page links to each'
    or diag map {"$_: no page links to it: README.md should\n"} @alone;


# The options that a tool takes: name => whether a value follows.

sub accepted {
    my ($tool) = @_;
    open my $out, '-|', $^X, '-e', <<'END', $tool or die $!;
use Getopt::Long ();
my $tool = shift;
my $show = sub {
    return 1 if (caller)[1] ne "./$tool";
    print map {"$_\n"} grep { defined && !ref } @_;
    exit 0;
};
{ no warnings;
*Getopt::Long::GetOptionsFromArray = $show;
*Getopt::Long::Parser::getoptionsfromarray = $show; }
@ARGV = ('--help');
do "./$tool"; die $@ || $!;
END
    my %option = map { /^([\w-]+)(?:\|[\w|-]+)?([=:].*)?$/ ? ($1 => $2) : () }
        <$out>;
    close $out;
    return \%option;
}

my @TOOLS = ('asana-hook', 'asana-hook-copy', 'asana-sim');
my %takes = map { $_ => accepted("tools/$_") } @TOOLS;
my %help  = map { $_ => scalar qx($^X tools/$_ --help) } @TOOLS;
$help{quickstart} = qx(./quickstart --help);
my %is_command = map { $_ => 1 }
    slurp('tools/asana-hook') =~ /^my %COMMANDS = \((.*?)^\);/ms
    ? $1 =~ /^ +(\w+) +=> \[/mg : ();
cmp_ok scalar(keys %is_command), '>', 5, 'commands of asana-hook';

sub named { my ($text, $option) = @_; return $text =~ /--\Q$option\E(?![\w-])/ }

# what Debian's packages have in usr/bin has a man page

my %man;
for my $list (glob 'debian/*.manpages') {
    $man{ s{.*/|\.\d$}{}gr } = slurp($_) =~ s/\\-/-/gr
        for grep {-f} split ' ', slurp($list);
}

for my $tool (@TOOLS) {
    my @options = sort keys %{ $takes{$tool} };
    cmp_ok scalar @options, '>', 5, "$tool: options";
    is join(' ', grep { !named($help{$tool}, $_) } @options), '',
        "tools/$tool: --help has each option that it takes";
    is join(' ', grep { !exists $takes{$tool}{$_} }
            $help{$tool} =~ /^ {2}(?:--[\w-]+ [A-Z]+ )?--([\w-]+)/mg), '',
        "tools/$tool: takes each option that --help has";
    next if !grep { slurp($_) =~ m{^tools/\Q$tool\E usr/bin$}m }
        glob 'debian/*.install';
    my $page = $man{$tool};
    ok defined $page, "$tool: a man page in debian/*.manpages" or next;
    is join(' ', grep { !named($page, $_) } @options), '',
        "$tool: its man page has each option";
}

is join(' ', grep { $help{'asana-hook'} !~ /^ {2}$_ /m } sort keys %is_command),
    '', 'asana-hook: --help has each command';
is join(' ', grep { $man{'asana-hook'} !~ /^\.BR? "?$_\b/m }
        sort keys %is_command), '', 'asana-hook: its man page, too';


# Commands.

# those of a shell, and of packages
my %IS_KNOWN = map { $_ => 1 } qw(
    . [ cd echo eval exec exit export false kill printf pwd read return set
    shift test trap true umask unset wait
    apt-cache apt-get apt-mark awk base64 cat chmod chown cmp cp curl cut date
    diff dirname dpkg du env find git grep groupadd gzip head hostname id
    install jq kill ln ls md5sum mkdir mktemp mv nice od openssl ps readlink rm
    rmdir sed seq sh sha256sum sleep sort ss ssh stat su sudo tail tar tee
    timeout touch tr uname useradd usermod uniq wc wget xargs xxd
    nginx openresty angie systemctl journalctl logger runuser
    mdb_copy mdb_dump mdb_load mdb_stat
    createdb createuser dropdb pg_dump pg_restore pg_ctl pg_isready psql
    certbot docker podman rpm rpmbuild dnf yum hg promtool prove node npm perl
    python3 gdb strace valgrind
    dpkg-buildpackage sbuild lintian
    restorecon semanage);

# what runs another command, with its options
my $PREFIX = qr/(?:(?:env|exec|nice|nohup|sudo|time)\0
    (?:-[gnu]\0[^\0]+\0|-[^\0]+\0|\w+=[^\0]*\0)*)*/x;

sub made {
    my ($words) = @_;
    my ($file) = join(' ', @$words) =~ /(?:^| )-f +(\S+)/;
    $file ||= 'Makefile';
    return "there is no \"$file\"" if !-f $file;
    my $text = slurp($file) =~ s/\\\n/ /gr;
    my %target = map { $_ => 1 } map {split} $text =~ /^([\w .\/-]+):(?!=)/mg,
        $text =~ /^\.PHONY:(.*)/mg;

    my @words = @$words;
    while (defined(my $word = shift @words)) {
        if ($word =~ /^-[fCj]$/) { shift @words if $word ne '-j' }
        elsif ($word =~ /^-/)    { next }
        elsif ($word =~ /^(\w+)=/) {
            return "$file has no variable $1"
                if $text !~ /\$[({]$1\b/ && $text !~ /^$1 *\?=/m;
        }
        elsif (!$target{$word}) {
            return "$file has no target \"$word\"";
        }
    }
    return;
}

# The words of a command of ours against what it says of itself.

sub used {
    my ($tool, $words) = @_;
    my @left;
    my @words = @$words;
    while (defined(my $word = shift @words)) {
        if ($word eq '--') { push @left, @words; last }
        if ($word =~ /^--?([A-Za-z][\w-]*)(=.*)?$/) {
            return "$tool has no option \"$word\""
                if !exists $takes{$tool}{$1};
            shift @words if $takes{$tool}{$1} && !defined $2;
        }
        else { push @left, $word }
    }
    return "asana-hook has no command \"$left[0]\""
        if $tool eq 'asana-hook' && @left && !$is_command{ $left[0] }
        && $left[0] !~ /^(?:help|command|…|\.\.\.)$/;
    return;
}

# The options that a script names in its head and its usage.

sub script_options {
    my ($path) = @_;
    my $text = slurp($path);
    $text .= slurp('bench/Bench.pm') if $text =~ /^use Bench qw\([^)]*\boptions\b/m;
    return { map { $_ => 1 } $text =~ /--([a-z][\w-]*)/g };
}

sub command_fault {
    my (@words) = @_;
    my ($name, @args) = split /\0/, join("\0", @words) =~ s/^$PREFIX//r, -1;
    if ($name eq 'runuser' && grep { $_ eq '--' } @args) {
        shift @args while $args[0] ne '--';
        return command_fault(@args[1 .. $#args]);
    }
    my ($tool) = $name =~ m{^(?:(?:\./)?tools/|/usr/bin/)?(asana-[\w-]+)$};
    if (defined $tool) {
        return "there is no $tool in tools/" if !$takes{$tool};
        return used($tool, \@args);
    }

    # "modules" is a target of nginx's own

    return made([grep { $_ ne 'modules' } @args]) if $name eq 'make';
    if ($name eq './quickstart') {
        my @unknown = grep { !/^(?:\d+|--help)$/
                && $help{quickstart} !~ /(?<!\S)\Q$_\E\b/ } @args;
        return @unknown ? "quickstart has no \"$unknown[0]\"" : undef;
    }
    return if $name eq './configure' || $name =~ m{^/};
    if ($name =~ m{/}) {
        my $path = $name =~ s{^\./}{}r;
        return if $path =~ m{^build/};
        return "there is no program \"$name\"" if !-f $path || !-x _;
        if ($path eq 't/run') {
            my @missing = grep { !-f } map {glob} @args;
            return @missing ? "there is no \"$missing[0]\"" : undef;
        }
        my $options = script_options($path);
        my @unknown = grep { /^--([\w-]+)/ && !$options->{$1} } @args;
        return @unknown ? "$path has no option \"$unknown[0]\"" : undef;
    }
    return if $IS_KNOWN{$name};
    return "\"$name\" is no command that t/docs.t knows: correct it, or add it "
        . 'to %IS_KNOWN there if a package has it';
}

# Commands within a sentence, and in the indented text of a README.

for my $file (sort keys %page) {
    my @faults;
    my @found = $page{$file}->spans;
    if ($file !~ /\.md$/) {
        @found = ();
        my $n = 0;
        for my $line (split /\n/, $page{$file}{prose}) {
            $n++;
            push @found, [$n, $1] if $line =~ /^ {4}(\S.*?)(?= {2}|$)/;
        }
    }
    for my $span (@found) {
        my ($line, $text) = @$span;
        next if $text !~ m{^(?:\./)?(?:make|quickstart|t/run
            |asana-(?:hook|hook-copy|sim)|(?:bench|fuzz|tools)/\w[\w-]*)(?:\ |$)}x
            || $text =~ m{^tools/[\w-]+\.} || -d $text;
        next if $text =~ m{^(?:bench|fuzz|tools)/\S+$} && -e $text;
        $text =~ s/\\\|/|/g;
        $text =~ s/^quickstart/.\/quickstart/;
        my ($command) = commands($text) or next;
        my $fault = command_fault(@{ $command->{words} });
        push @faults, [$line, "`$text`: $fault"] if $fault;
    }
    right($file, 'commands in sentences', @faults);
}


# An nginx with a control API, in whose directory examples find their files.

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new;
my $dir    = $t->{dir};
my $run    = "$dir/root/run/asana-hook";
my $key    = 'hooks.example.com/receive-webhook/1200';
make_path($run, "$dir/bin", "$dir/here");
chmod 0755, "$dir/root", "$dir/root/run";
$t->write_file('key', 'a' x 64 . "\n");
chmod 0600, "$dir/key";
$t->{zone}   = "encryption_key=$dir/key";
$t->{server} = 'location /api { asana_hook_api hooks write=on; }';
$t->{http}   = "server { listen unix:$run/api.sock;
    location / { asana_hook_api hooks write=on; } }";
$t->app->run;

# What examples of a shell call instead of the programs of that name: nothing,
# but for those that do no harm.

my @HARMLESS = qw(base64 cat cut date grep head jq od openssl sed seq
    sha256sum sort tail tr wc);

sub program {
    my ($name, $text) = @_;
    $t->write_file("bin/$name", "#!/bin/sh\n$text\n");
    chmod 0755, "$dir/bin/$name";
    return;
}

sub programs {
    my (%names) = map { $_ => 1 } @_;
    unlink glob "$dir/bin/*";
    for my $name (grep { !m{/} } keys %names) {
        my ($real) = grep {-x} map {"$_/$name"} split /:/, $ENV{PATH};
        if ($real && grep { $_ eq $name } @HARMLESS) {
            symlink $real, "$dir/bin/$name" or die $!;
        }
        else { program($name, 'exit 0') }
    }

    # a key is known before it is asked for
    my $tool = "$^X '" . getcwd() . "/tools/asana-hook'";
    program('asana-hook', <<"END");
PATH='$ENV{PATH}'
for word; do
    case \$word in hooks.example.com/*)
        printf %s '$secret' | $tool put "\$word" >/dev/null || exit ;;
    esac
done
case " \$* " in
    *' watch '*)
        $tool "\$@" >$dir/watched & tool=\$!
        while [ ! -s $dir/watched ] && kill -0 \$tool; do sleep 0.1; done
        kill -INT \$tool
        wait \$tool
        exit ;;
esac
exec $tool "\$@"
END

    # Asana answers a create call; the API of the example is the one here
    program('curl', <<"END");
PATH='$ENV{PATH}'
case " \$* " in
    *" --unix-socket $run/api.sock "*) exec curl -f -S -m 10 "\$@" ;;
esac
echo '{"data":{"gid":"1"},"X-Hook-Secret":"$secret"}'
END
    return;
}

sub executed {
    my ($text, $found) = @_;
    $text =~ s{(?<![\w./:~-])/(?=(?:etc|home|opt|root|run|srv|usr|var)/)}
        {$dir/root/}g;
    $text =~ s{unix:\K/(?=run/)}{$dir/root/}g;
    return if $text =~ m{>>?\s*(?!\Q$dir\E/|/dev/null)[/~]};
    my $id = secret_id($secret);
    $text =~ s/\b[\da-f]{16}\b/$id/g;
    make_path(map {dirname($_)} $text =~ m{(\Q$dir\E/root/[\w./-]+)}g);
    $t->write_file('here/secret.txt',
        ($text =~ /-H @/ ? 'X-Hook-Secret: ' : '') . "$secret\n");
    $t->call('PUT', "/api/hooks?key=$key", ["X-Hook-Secret: $secret"]);
    programs(map { $_->{words}[0] } @$found);
    $t->write_file('script', $text);

    my $pid = open my $out, '-|';
    die "fork: $!\n" if !defined $pid;
    if (!$pid) {
        $ENV{PATH} = "$dir/bin";
        $ENV{ASANA_HOOK_API} = "unix:$run/api.sock";
        open STDIN, '<', '/dev/null' or POSIX::_exit(127);
        open STDERR, '>&', \*STDOUT or POSIX::_exit(127);
        chdir "$dir/here" or POSIX::_exit(127);
        exec '/bin/sh', '-e', "$dir/script" or POSIX::_exit(127);
    }
    my $said = do { local $/ = undef; <$out> };
    close $out;
    return if !$?;
    my @lines = split /\n/, $said =~ s/\Q$dir\E//gr;
    return 'it fails: ' . (@lines ? $lines[-1] : 'without a word');
}

sub sh_faults {
    my ($block) = @_;
    my $line = $block->{line};
    $t->write_file('script', $block->{text});
    my $said = qx(sh -n $dir/script 2>&1);
    return [$line, 'no shell can read it: ' . $said =~ s/.*\/script: //r] if $?;

    my @found = commands($block->{text}, $line + 1);
    my @faults;
    for my $command (@found) {
        my $fault = command_fault(@{ $command->{words} });
        push @faults, [$command->{line}, $fault] if $fault;
    }
    my $n = $line;
    push @faults, path_faults(++$n, $_) for split /\n/, $block->{text};
    return @faults if @faults;

    my $runs = grep { $_->{words}[0] eq 'asana-hook'
            || "@{ $_->{words} }" =~ m{--unix-socket /run/asana-hook/} } @found;
    if ($runs && !grep { $_->{words}[0] =~ m{/|^(?:\.|cd|eval|exec|kill|trap)$} }
        @found)
    {
        my $fault = executed($block->{text}, \@found);
        push @faults, [$line, $fault] if $fault;
    }
    return @faults;
}


# Lines of nginx.conf.  What they name and do not define is put beside them.

my %MAIN = map { $_ => 1 } qw(daemon env events http load_module lock_file
    master_process pid pcre_jit stream thread_pool timer_resolution user
    worker_cpu_affinity worker_processes worker_rlimit_core
    worker_rlimit_nofile worker_shutdown_timeout);
my %HTTP = map { $_ => 1 } qw(asana_hook_zone fastcgi_cache_path geo js_import
    js_path limit_conn_zone limit_req_zone log_format map proxy_cache_path
    server split_clients upstream);
my %SERVER = map { $_ => 1 } qw(http2 http3 listen location server_name
    ssl_certificate ssl_certificate_key);

# directives and parameters that only other builds of nginx have
my $OTHERS = qr/unknown[ ]directive[ ]"(?:http2|http3|js_\w+|stream)"
    |invalid[ ]parameter[ ]"quic"|the[ ]"quic"[ ]parameter[ ]requires
    |"ngx_http_asana_hook_postgres_module"|dlopen\(\)/x;

my %certificate;

sub certificate {
    my ($kind) = @_;
    if (!%certificate) {
        my $said = qx(openssl req -x509 -newkey ec -nodes -subj /CN=localhost \\
            -pkeyopt ec_paramgen_curve:P-256 -days 2 -keyout $dir/tls.key \\
            -out $dir/tls.pem 2>&1);
        die "openssl: $said\n" if $?;
        %certificate = (key => "$dir/tls.key", pem => "$dir/tls.pem");
    }
    return $certificate{$kind};
}

my %place;

sub place {
    my ($what) = @_;
    return $place{$what} ||= "$dir/place" . keys %place;
}

sub stand_ins {
    my ($text) = @_;
    $t->write_file('empty', '');
    $text =~ s{(\binclude\s+)[^\s;]+}{$1$dir/empty}g;
    $text =~ s{(\bstate=)(/[^\s;]+)}{$1 . place($2)}ge;
    $text =~ s{(\bencryption_key=)[^\s;]+}{$1$dir/key}g;
    $text =~ s{(ssl_certificate_key\s+)[^\s;]+}{$1 . certificate('key')}ge;
    $text =~ s{((?:ssl_|trusted_|client_)certificate\s+)[^\s;]+}
        {$1 . certificate('pem')}ge;
    $text =~ s{(\b(?:access_log|error_log|pid|\w+_temp_path|\w+_cache_path)\s+)
        (/[^\s;]+)}{$1 . place($2)}gex;
    $text =~ s{(\blisten\s+)unix:([^\s;]+)}{"${1}unix:" . place($2)}ge;
    $text =~ s{(\blisten\s+)(?!unix:)([^\s;]+)}
        {$1 . '127.0.0.1:' . ($place{$2} ||= port())}ge;

    # names are not looked up
    my $ip = qr/(?:\d+\.){3}\d+/;
    $text =~ s{(_pass\s+(?:\w+://)?)(?!$ip)[\w.-]+(:\d+)}{${1}127.0.0.1$2}g;
    $text =~ s{((?:^|[\{;])\s*server\s+)(?!$ip|unix:)[\w.-]+((?::\d+)?[\s;])}
        {${1}127.0.0.1$2}gm;
    $text =~ s{^(\s*user\s+)[^;]+}{${1}www-data}m;
    return $text;
}

sub undefined {
    my ($text) = @_;
    my ($more, %has) = ('');
    $has{$_} = 1 for $text =~ /\bzone=(\w+):/g;
    $has{"up $_"} = 1 for $text =~ /\bupstream\s+([\w.-]+)/g;
    for my $zone ($text =~ /\basana_hook(?:_api|_gateway)?\s+(\w+)/g) {
        $more .= "asana_hook_zone \$server_name\$uri zone=$zone:1m state="
            . place("zone $zone") . ";\n"
            if $zone ne 'off' && !$has{$zone}++;
    }
    for my $zone ($text =~ /\blimit_req\s+[^;]*?zone=(\w+)/g) {
        $more .= "limit_req_zone \$server_name zone=$zone:1m rate=1r/s;\n"
            if !$has{$zone}++;
    }
    for my $name ($text =~ /_pass\s+(?:\w+:\/\/)?([A-Za-z][\w.-]*)(?=[\/;])/g) {
        $more .= "upstream $name { server 127.0.0.1:1; }\n"
            if !$has{"up $name"}++;
    }
    for my $name ($text =~ /\baccess_log\s+\S+\s+(\w+)/g) {
        $more .= "log_format $name '\$uri';\n"
            if $name ne 'combined' && $text !~ /\blog_format\s+$name\b/;
    }
    return $more;
}

# A whole configuration with the statements, those that are neither main's nor
# http's at this level.

sub whole {
    my ($level, @statements) = @_;
    my %in = map { $_ => '' } qw(main http server location);
    for my $s (@statements) {
        my $where
            = $level eq 'main' || $MAIN{ $s->{name} } ? 'main'
            : $HTTP{ $s->{name} }   ? 'http'
            : $SERVER{ $s->{name} } && $level ne 'http' ? 'server'
            :                         $level;
        $in{$where} .= "$s->{text}\n" if $s->{name} ne 'load_module'
            || $s->{text} !~ /asana_hook/;
    }

    my $main = "error_log $dir/docs.log;\n";
    for my $s (statements($t->globals)) {
        next if $s->{name} eq 'error_log';
        $main .= "$s->{text}\n" if $s->{name} eq 'load_module'
            || $in{main} !~ /^\s*\Q$s->{name}\E\s/m;
    }
    my $http = $t->globals_http =~ s/ hook([ ;])/ other$1/gr;
    my $text = "$in{main}$in{http}$in{server}$in{location}";
    return $main . $in{main}
        =~ s/^\s*http\s*\{/"http {\n$http" . undefined($text)/emr
        if $level eq 'main';

    $in{location} = "location /docs-t { $in{location} }"
        if $in{location} =~ /\S/;
    $in{server} = "server { listen 127.0.0.1:@{[port()]};
        $in{server} $in{location} }" if "$in{server}$in{location}" =~ /\S/;
    return "$main$in{main}http {\n$http" . undefined($text)
        . "$in{http}$in{server}\n}\n";
}

# What nginx says of a text, or nothing; undef if it is for another nginx.

sub loaded {
    my ($level, @statements) = @_;
    my $conf = whole($level, @statements);
    local $t->{fleet} = 1
        if $conf =~ /state=postgres/ && !$ENV{ASANA_HOOK_STATIC}
        && -f ($ENV{ASANA_HOOK_MODULE}
        || 'build/ngx_http_asana_hook_module.so')
        =~ s/hook_module/hook_postgres_module/r;
    $conf = whole($level, @statements);
    my %known;
    while (1) {
        $t->write_file('docs.conf', $conf);
        my ($code, $said)
            = $t->nginx('-t', '-c', "$dir/docs.conf", '-e', "$dir/docs.log");
        return '' if !$code;
        return if $said =~ $OTHERS;
        if ($said =~ /unknown "(\w+)" variable/ && !$known{$1}++) {
            my $map = "map \$uri \$$1 { default ''; }";
            next if $conf =~ s/^(\s*http\s*\{)/$1\n$map\n/m;
        }
        my ($why) = $said =~ /\[emerg\] (?:\d+#\d+: )?(.*)/;
        return $why || $said;
    }
    return;
}

sub nginx_faults {
    my ($block, $page) = @_;
    my $line = $block->{line};
    my @statements = statements(stand_ins($block->{text}));
    return [$line, 'it is empty'] if !@statements;
    return [$line, "\"$statements[-1]{text}\" has no end" =~ s/\s+/ /gr]
        if $statements[-1]{name} eq '';

    # where the lines belong that could be anywhere
    my %has = map { $_->{name} => 1 } @statements;
    my @levels
        = $has{http}                ? 'main'
        : $has{server}              ? 'http'
        : (grep {$SERVER{$_}} keys %has) ? qw(server http)
        :                             qw(location server http);
    my @said;
    for my $level (@levels) {
        my $why = loaded($level, @statements);
        if (!defined $why) {
            note "$page->{file}:$line: for another nginx than this one";
            return;
        }
        return if $why eq '';
        push @said, $why;
    }
    return [$line, "nginx -t: $said[0]" =~ s/ in \S+docs\.conf:\d+$//r];
}


# What else there is.

sub json_faults {
    my ($block) = @_;
    return if eval { JSON::PP->new->utf8->decode($block->{text}); 1 };
    return [$block->{line}, 'no JSON: ' . $@ =~ s/ at \S+ line.*//sr];
}

# Requests and answers, each with an empty line before what follows.

sub http_faults {
    my ($block) = @_;
    my $start = qr{(?:[A-Z]+ \S+ HTTP/[\d.]+|HTTP/[\d.]+ \d{3}(?: .*)?)};
    my ($n, $state, @faults) = ($block->{line}, 'start');
    for my $line (split /\n/, $block->{text}) {
        $n++;
        if ($line =~ /^$start$/) {
            push @faults, [$n, 'an empty line is missing before it']
                if $state eq 'head';
            $state = 'head';
        }
        elsif ($state eq 'head' && $line eq '') { $state = 'body' }
        elsif ($state eq 'head' && $line !~ /^[\w-]+:(?: .*)?$/) {
            push @faults, [$n, "\"$line\" is no header"];
        }
        elsif ($state eq 'start') {
            push @faults, [$n, "\"$line\" is neither a request nor an answer"];
            last;
        }
    }
    return @faults;
}

# a language => the program that reads a file of it, and what it must have
my %READER = (
    js     => ['node', '--check'],
    perl   => ['perl', '-c'],
    php    => ['php', '-l'],
    python => ['python3', '-c', 'import ast; ast.parse(text)'],
    ruby   => ['ruby', '-c'],
    yaml   => ['python3', '-c', "try: import yaml\n"
            . "except ImportError: sys.exit(0)\nlist(yaml.safe_load_all(text))"]
);

sub reader_faults {
    my ($block, $page) = @_;
    my $file = "example.$block->{language}";
    my @command = @{ $READER{ $block->{language} } };
    $command[-1] = "import sys; text = open(sys.argv[1]).read()\n"
        . "sys.excepthook = lambda kind, why, where: print(why)\n$command[-1]"
        if $command[0] eq 'python3';
    if (!grep { -x "$_/$command[0]" } split /:/, $ENV{PATH}) {
        note "$page->{file}:$block->{line}: no $command[0] here";
        return;
    }
    $t->write_file($file, $block->{text});
    open my $out, '-|', 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command,
        "$dir/$file" or die $!;
    my $said = do { local $/ = undef; <$out> };
    close $out;
    return if !$?;
    return [$block->{line}, "$command[0]: $said" =~ s/\Q$dir\E\///gr];
}

# What was not tried says so in its chapter; text is what a test prints.

sub other_faults {
    my ($block, $page) = @_;
    my $language = $block->{language};
    return if $page->{chapters}{ $block->{chapter} }
        =~ /not\s+(?:tested|run|tried)\s+by\s+us|not\s+tried/i;
    return [$block->{line}, 'a block without a language: name it']
        if $language eq '';
    if ($language eq 'text') {
        return if grep { $_ ne 't/docs.t' && index(slurp($_), '```text') >= 0
                && index(slurp($_), $page->{file}) >= 0 } glob 't/*.t';
        return [$block->{line}, 'text that no test makes: let one look for '
                . "it in $page->{file}, as t/night.t does, or name a language"];
    }
    return [$block->{line}, "t/docs.t cannot check \"$language\": teach it, or "
            . 'say in the chapter that it was not tried by us'];
}

my %CHECK = (
    http  => \&http_faults,
    json  => \&json_faults,
    nginx => \&nginx_faults,
    sh    => \&sh_faults,
    (map { $_ => \&reader_faults } keys %READER)
);

my $blocks = 0;
for my $file (grep { $page{$_} } @PAGES) {
    for my $block (@{ $page{$file}{blocks} }) {
        my $check = $CHECK{ $block->{language} } || \&other_faults;
        my $name = $block->{language} || 'a block';
        right($file, "$name in line $block->{line}",
            $check->($block, $page{$file}));
        $blocks++;
    }
}
cmp_ok $blocks, '>', 20, 'blocks';
$t->end;

done_testing;
