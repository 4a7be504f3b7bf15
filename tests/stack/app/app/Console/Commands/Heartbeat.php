<?php

namespace App\Console\Commands;

use App\Support\Beat;
use Illuminate\Console\Command;

class Heartbeat extends Command
{
    protected $signature = 'chom:heartbeat {name=scheduler}';

    protected $description = 'Record that a background process is alive';

    public function handle(): int
    {
        Beat::record($this->argument('name'));

        return self::SUCCESS;
    }
}
