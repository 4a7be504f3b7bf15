<?php

namespace App\Console;

use Illuminate\Console\Scheduling\Schedule;
use Illuminate\Foundation\Console\Kernel as ConsoleKernel;

class Kernel extends ConsoleKernel
{
    protected $commands = [
        Commands\Heartbeat::class,
        Commands\Seed::class,
        Commands\Status::class,
    ];

    protected function schedule(Schedule $schedule): void
    {
        $schedule->command('chom:heartbeat scheduler')->everyMinute()->evenInMaintenanceMode();
    }
}
