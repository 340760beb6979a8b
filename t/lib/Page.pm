package Page;

# A page of the documentation: its chapters, links, code and fenced blocks, each
# with the line where it begins.  And what stands in blocks, cut into pieces:
# the statements of an nginx.conf, the commands of a shell.
#
#     my $page = Page->new('docs/fleet.md');
#     $page->{anchors}{'set-it-up'}     a chapter of that name
#     $page->links                      [line, target], ...
#     $page->spans                      [line, text of `code`], ...
#     @{ $page->{blocks} }              {line, language, chapter, text}, ...

use strict;
use warnings;

use Carp qw(croak);
use Exporter qw(import);

our @EXPORT_OK = qw(commands statements);

sub new {
    my ($class, $file) = @_;
    open my $fh, '<', $file or croak "$file: $!";
    my @lines = <$fh>;
    close $fh;

    my $self = bless {
        file     => $file,
        prose    => '',
        anchors  => {},
        chapters => {},
        blocks   => [],
        faults   => []
    }, $class;

    my ($block, $chapter) = (undef, '');
    for my $n (1 .. @lines) {
        my $line = $lines[ $n - 1 ];
        if ($block) {
            if ($line =~ /^ *\Q$block->{fence}\E[`~]* *$/) {
                undef $block;
            }
            else {
                $block->{text} .= $line =~ s/^ {0,$block->{indent}}//r;
            }
            $self->{prose} .= "\n";
            next;
        }
        if ($line =~ /^( *)(`{3,}|~{3,}) *([^\s`]*)/) {
            $block = {
                indent   => length $1,
                fence    => $2,
                language => lc $3,
                line     => $n,
                chapter  => $chapter,
                text     => ''
            };
            push @{ $self->{blocks} }, $block;
            $self->{prose} .= "\n";
            next;
        }
        if ($line =~ /^#{1,6} +(.*?)(?: +#+)? *$/) {
            $chapter = $1;
            my $anchor = my $name = anchor($chapter);
            for (my $i = 1; $self->{anchors}{$anchor}; $i++) {
                $anchor = "$name-$i";
            }
            $self->{anchors}{$anchor} = $n;
        }
        $self->{anchors}{$_} = $n for $line =~ /<a (?:id|name)="([^"]+)"/g;
        $self->{prose} .= $line;
        $self->{chapters}{$chapter} .= $line;
    }
    push @{ $self->{faults} }, [$block->{line}, 'a block without an end']
        if $block;

    # comments are nobody's
    $self->{prose} =~ s/(<!--.*?-->)/$1 =~ s{[^\n]}{}gr/gse;
    return $self;
}

# The name that GitHub gives a chapter; all else here are bytes.

sub anchor {
    my ($text) = @_;
    utf8::decode($text);
    $text =~ s/\[([^\]]*)\]\([^)]*\)/$1/g;
    $text = lc $text;
    $text =~ s/[^\w\- ]//g;
    $text =~ tr/ /-/;
    utf8::encode($text);
    return $text;
}

sub line_at {
    my ($text, $pos) = @_;
    return 1 + (substr($text, 0, $pos) =~ tr/\n//);
}

# `code`, which ends in its paragraph.

my $code = qr/(?<!`)(`+)(?!`)((?:(?!\n *\n).)+?)(?<!`)\g{-2}(?!`)/s;

sub spans {
    my ($self) = @_;
    my @spans;
    while ($self->{prose} =~ /$code/g) {
        push @spans, [line_at($self->{prose}, $-[0]), $2 =~ s/\s+/ /gr];
    }
    return @spans;
}

sub links {
    my ($self) = @_;
    my $text = $self->{prose} =~ s/($code)/$1 =~ s{[^\n]}{x}gr/ger;
    my $inner = qr/(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*/;
    my @links;
    for my $form (
        qr/\[(?=$inner\]\(\s*<?([^\s()<>]*)>?(?:\s+"[^"]*")?\s*\))/,
        qr/^ {0,3}\[[^\]\n]+\]: *<?(\S+?)>?(?= |$)/m,
        qr/<(?:a|img|source)\b[^>]*? (?:href|src|srcset)="([^"\s]+)/
        )
    {
        while ($text =~ /$form/g) {
            push @links, [line_at($text, $-[0]), $1];
        }
    }
    @links = sort { $a->[0] <=> $b->[0] } @links;
    return @links;
}

# The statements of an nginx.conf, not those within a block: {name, args,
# text}.  What is left without an end is the last one, with the name "".

sub statements {
    my ($text) = @_;
    my (@found, @words);
    my ($depth, $from) = (0, 0);
    my $end = sub {
        push @found, {
            name => $words[0],
            args => [@words[1 .. $#words]],
            text => substr $text, $from, pos($text) - $from
        };
        ($from, @words) = (pos $text);
    };
    my $word = sub { push @words, $_[0] if !$depth };

    pos($text) = 0;
    while (pos $text < length $text) {
        if ($text =~ /\G(?:\s+|#.*)/gc) { }
        elsif ($text =~ /\G;/gc) {
            $end->() if !$depth && @words;
        }
        elsif ($text =~ /\G\{/gc) { $depth++ }
        elsif ($text =~ /\G\}/gc) {
            $end->() if --$depth == 0 && @words;
            last if $depth < 0;
        }
        elsif ($text =~ /\G"((?:[^"\\]|\\.)*)"/gcs
            || $text =~ /\G'((?:[^'\\]|\\.)*)'/gcs
            || $text =~ /\G((?:\\.|\$\{\w+\}|[^\s;{}])+)/gcs)
        {
            $word->($1);
        }
        else { last }
    }
    my $rest = substr $text, $from;
    push @found, { name => '', args => [], text => $rest }
        if $depth || $rest =~ s/#.*//gr =~ /\S/;
    return @found;
}

# The simple commands of a shell text, also those within $(...): {line, words,
# input}.  Assignments, redirections and the words of the grammar are left out;
# input is true if something is piped or read into it.

sub commands {
    my ($text, $line) = @_;
    $line ||= 1;
    my (@found, @words, $word, $redirect, @here);
    my ($piped, $input) = (0, 0);

    my $end_word = sub {
        return if !defined $word;
        if ($redirect) {
            push @here, $word if $redirect =~ /^<</;
            $input = 1 if $redirect =~ /^</;
            $redirect = '';
        }
        else { push @words, $word }
        undef $word;
    };
    my $end = sub {
        my ($operator) = @_;
        $end_word->();
        shift @words while @words && $words[0]
            =~ /^(?:\w+=.*|if|then|elif|else|fi|while|until|do|done|!|\{|\})$/s;
        push @found, { line => $line, words => [@words],
            input => $input || $piped }
            if @words && $words[0] !~ /^(?:for|case|esac)$/;
        @words = ();
        ($piped, $input) = ($operator eq '|', 0);
    };
    my $add = sub { $word = (defined $word ? $word : '') . $_[0] };
    my $inner = sub { push @found, commands($_[0], $line) };
    my $parens = qr/(\((?:[^()]|(?-1))*\))/;

    pos($text) = 0;
    while (pos $text < length $text) {
        if ($text =~ /\G\\\n/gc) { $line++ }
        elsif ($text =~ /\G[ \t]+/gc) { $end_word->() }
        elsif (!defined $word && $text =~ /\G#.*/gc) { }
        elsif ($text =~ /\G\n/gc) {
            $end->('');
            $line++;
            while (defined(my $mark = shift @here)) {
                $text =~ /\G(.*?^\s*\Q$mark\E$)/gcsm or last;
                $line += $1 =~ tr/\n//;
            }
        }
        elsif ($text =~ /\G(\d*(?:<<-?|>>|[<>]&|<|>\|?))/gc) {
            my $operator = $1 =~ s/^\d+//r;
            $end_word->();
            $redirect = $operator;
        }
        elsif ($text =~ /\G(&&|\|\||;;|[;&|()])/gc) { $end->($1) }
        elsif ($text =~ /\G'([^']*)'/gc) {
            $add->($1);
            $line += $1 =~ tr/\n//;
        }
        elsif ($text =~ /\G"((?:[^"\\\$]|\\.|\$$parens|\$)*)"/gcs) {
            my $quoted = $1;
            $add->($quoted =~ s/\\(["\\\$`])/$1/gr);
            $inner->($1) while $quoted =~ /\$\(((?:[^()]|$parens)*)\)/g;
            $line += $quoted =~ tr/\n//;
        }
        elsif ($text =~ /\G\$$parens/gc) {
            $inner->(substr $1, 1, -1);
            $add->('$()');
        }
        elsif ($text =~ /\G\\(.)/gcs)              { $add->($1) }
        elsif ($text =~ /\G([^\s\\'"|&;()<>\$]+|.)/gcs) { $add->($1) }
    }
    $end->('');
    return @found;
}

1;
